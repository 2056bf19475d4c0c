"""Build the website: README, notebooks and a playground as web pages in reports/site. `python tools/site.py`

All that a page shows lies beside it, so that it opens from a folder as well as from a server, without a network.
Equations become MathML, which browsers show without help.
"""

import base64
import html
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jinja2
import latex2mathml.converter
import nbformat
import torch
from nbconvert.exporters import TemplateExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from torch import Tensor, nn

from qmvae.data.dataset import Dataset
from qmvae.model.base import MultimodalVAE
from qmvae.pipeline import artifacts, files, params
from qmvae.report.playground import REACH, examples

WEB = Path(__file__).parent / "web"


def mathml(tex: str, block: bool) -> str:
    r"""Return an equation in MathML; the number that its \tag gives is at the right. Raises FileError."""
    number = re.search(r"\\tag\{(.*?)\}", tex)
    plain = re.sub(r"\\tag\{.*?\}", "", tex).replace("{aligned}", "{align*}").strip()  # the converter's name for it
    try:
        found = latex2mathml.converter.convert(plain, display="block" if block else "inline")
    except Exception as error:  # of many kinds without a common one
        raise files.FileError(f"the equation {tex!r} cannot be parsed: {error!r}") from None
    if unknown := re.search(r"\\[A-Za-z]+|<mi>&</mi>", found):
        raise files.FileError(f"the equation {tex!r} cannot be written in MathML: {unknown[0]}")
    found = re.sub(r"(<mi>[a-z]{2,}</mi>)(?=<mi>)", r'\1<mspace width="0.167em" />', found)  # the space in ln p
    if not block:
        return found
    return f'<span class="equation">{found}{f"<span>({number[1]})</span>" if number else ""}</span>'


class Renderer(IPythonRenderer):
    """Markdown in the dialect of JupyterLab and GitHub; headings have GitHub's ids."""

    def inline_math(self, body: str) -> str:
        return mathml(body, block=False)

    def block_math(self, body: str) -> str:
        return mathml(body, block=True)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", block=True)

    def heading(self, text: str, level: int, **attrs) -> str:
        words = re.sub(r"[^\w\- ]", "", re.sub(r"<.*?>", "", text)).lower()
        return f'<h{level} id="{words.replace(" ", "-")}">{text}</h{level}>\n'


def markdown(text: str) -> str:
    """Return Markdown as HTML. Each cell is rendered alone, so that a <details> may end in a later cell."""
    return MarkdownWithMath(renderer=Renderer(escape=False)).render(text)


def notebook_exporter() -> TemplateExporter:
    """Return nbconvert's exporter with web/notebook.html.j2; it shows the first of these types that an output has."""
    types = ["image/svg+xml", "image/png", "image/jpeg", "text/html", "text/markdown", "text/plain"]
    return TemplateExporter(
        template_name="base",
        extra_template_paths=[str(WEB)],
        template_file="notebook.html.j2",
        filters={"markdown2html": markdown},
        config={"NbConvertBase": {"display_data_priority": types}},
    )


class Site:
    """The pages that can be reached from the README, and the files that they link to.

    files: contents by path in the site. bodies: HTML by page. titles: by page, its name in the list of pages.
    """

    def __init__(self, root: Path, executed: Path):
        self.root, self.executed, self.exporter = root.resolve(), executed, notebook_exporter()
        self.files: dict[str, bytes] = {}
        self.titles: dict[str, str] = {}
        self.bodies: dict[str, str] = {}
        self.waiting = [self.root / "README.md", *sorted((self.root / "notebooks").glob("*.ipynb"))]
        self.names = {source: self.page_name(source) for source in self.waiting}
        while self.waiting:
            self.add_page(self.waiting.pop(0))

    def page_name(self, source: Path) -> str:
        """Return the file name of a source's page; all pages are in one folder."""
        path = source.relative_to(self.root).with_suffix(".html")
        return {"README.html": "index.html"}.get(str(path), "-".join(path.parts).removeprefix("notebooks-"))

    def add_page(self, source: Path) -> None:
        """Convert a Markdown file, or a notebook's copy of this preset if there is one. FileError names the file."""
        name, executed = self.names[source], self.executed / source.name
        try:
            if source.suffix == ".ipynb":
                notebook = nbformat.read(executed if executed.is_file() else source, as_version=4)
                body, _ = self.exporter.from_notebook_node(notebook)
            else:
                body = markdown(source.read_text(encoding="utf-8"))
        except (OSError, ValueError, nbformat.ValidationError, files.FileError) as error:
            raise files.FileError(f"{source}: cannot be made a page: {error}") from None
        heading = re.search(r"<h1.*?>(.*?)</h1>", body, re.DOTALL)
        self.titles[name] = re.sub(r"<.*?>", "", heading[1]) if heading else source.stem
        self.bodies[name] = re.sub(
            r'(<(?:a|img)\b[^>]*?)\b(href|src)="([^"]*)"', lambda m: m[1] + self.link(m[2], m[3], source.parent), body
        )

    def link(self, attribute: str, address: str, folder: Path) -> str:
        """Return the attribute `href` or `src` for the site; the address is one in a file of `folder`.

        Files of the repository become pages or are copied. An address without a file, such as a folder, gives "".
        """
        parts = urlsplit(html.unescape(address))
        fragment = f"#{parts.fragment.lower()}" if parts.fragment else ""
        if parts.scheme or parts.netloc:
            return f'{attribute}="{address}"'
        if not parts.path:
            return f'{attribute}="{fragment}"'
        target = Path(os.path.normpath(folder / unquote(parts.path)))
        if not target.is_file() or not target.resolve().is_relative_to(self.root):
            return ""
        if target.suffix in (".md", ".ipynb"):
            if target not in self.names:
                self.names[target] = self.page_name(target)
                self.waiting.append(target)
            return f'{attribute}="{self.names[target]}{fragment}"'
        path = f"files/{target.relative_to(self.root).as_posix()}"
        self.files[path] = target.read_bytes()
        return f'{attribute}="{path}"'


def portable(model: MultimodalVAE, dataset: Dataset) -> dict[str, Any]:
    """Return the data of web/playground.js, fit for JSON: decoders as lists of layers, test images and their codes.

    Arrays are base64 of little-endian numbers: weights float16, codes float32, images uint8. Raises ValueError where
    playground.js cannot run a layer of a decoder.
    """
    modalities = {}
    for name, shape in model.shapes.items():
        images, labels = examples(dataset, name)
        with torch.no_grad():
            shared = model.shared_code(model.shared({name: images}), torch.Generator().manual_seed(0))
            private = model.private(name, images).mean
        modalities[name] = {
            "title": dataset.titles[name],
            "shape": shape,
            "labels": labels,
            "images": _base64((255 * images).round(), "u1"),
            "shared": _base64(shared, "<f4"),
            "private": _base64(private, "<f4"),
            "decoder": [_layer(layer) for layer in model.decoders[name].children()],
        }
    return {"private": model.sizes["private"], "reach": REACH, "modalities": modalities}


def _layer(layer: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": type(layer).__name__}
    if isinstance(layer, nn.Unflatten):
        found["shape"] = list(layer.unflattened_size)
    elif isinstance(layer, nn.ConvTranspose2d):
        options = ("kernel_size", "stride", "padding", "output_padding", "dilation")
        values = {option: set(getattr(layer, option)) for option in options}
        if layer.groups != 1 or values.pop("dilation") != {1} or any(len(both) > 1 for both in values.values()):
            raise ValueError(f"{layer}: playground.js runs square kernels without groups and dilation only")
        found |= {option: both.pop() for option, both in values.items()}
    elif not isinstance(layer, nn.Linear | nn.ReLU | nn.Sigmoid):
        raise ValueError(f"{layer}: playground.js has no such layer")
    return found | {name: _base64(tensor, "<f2") for name, tensor in layer.state_dict().items()}


def _base64(tensor: Tensor, kind: str) -> str:
    return base64.b64encode(tensor.numpy().astype(kind).tobytes()).decode()


def build(run: params.Params) -> dict[str, bytes]:
    """Return all files of the site by path. Raises FileError if a notebook, the images or the model is missing."""
    site = Site(run.root, run.reports / "notebooks")
    numbers = portable(artifacts.load_model(run, "qmvae"), artifacts.load_dataset(run))
    script = f"const PLAYGROUND = {json.dumps(numbers, ensure_ascii=False, separators=(',', ':'))};\n"
    site.files |= {"playground-data.js": script.encode()}
    site.files |= {name: (WEB / name).read_bytes() for name in ("style.css", "playground.js")}
    site.titles = {"index.html": "", "playground.html": "Playground"} | site.titles  # in the order of the list
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(WEB), trim_blocks=True)
    about = f"Q-MVAE, trained with the preset {run.preset} and seed {run.seeds[0]}"
    site.bodies["playground.html"] = templates.get_template("playground.html").render(about=about)
    page = templates.get_template("page.html")
    for name, body in site.bodies.items():
        text = page.render(title=site.titles[name], pages=site.titles, here=name, body=body, preset=run.preset)
        site.files[name] = text.encode()
    return site.files


def write(built: dict[str, bytes], folder: Path) -> None:
    """Replace the folder by one with these files."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in built.items():
        with files.replacing(folder / path) as partial:
            partial.write_bytes(content)


def main() -> None:
    try:
        run = params.load()
        write(build(run), run.root / "reports" / "site")
    except (params.ParamsError, files.FileError) as error:
        raise SystemExit(f"site: {error}") from None


if __name__ == "__main__":
    main()
