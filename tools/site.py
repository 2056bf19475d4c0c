"""Build the website in reports/site: README, notebooks, a playground, the API. `python tools/site.py`

All that a page shows lies beside it, so that it opens from a folder as well as from a server, without a network.
Equations become MathML, which browsers show without help. The playground has the committed model, so that no run is
needed; the notebooks have the outputs of the preset of params.yaml if it was run, or else the committed ones.
"""

import ast
import base64
import hashlib
import html
import json
import os
import re
import shutil
from collections.abc import Iterator
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

from qmvae.data.checks import DataError
from qmvae.data.dataset import Dataset
from qmvae.model.base import MultimodalVAE
from qmvae.pipeline import artifacts, files, notebooks, params
from qmvae.report.playground import REACH, examples

WEB = Path(__file__).parent / "web"
# the files whose public functions and classes the page `API` shows
API = (
    *("__init__.py", "pipeline/checkpoint.py", "model/*.py", "baselines/*.py", "data/dataset.py", "evaluate/*.py"),
    *("report/figures.py", "report/plots.py", "report/tables.py"),
)


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


def dvc_stages(root: Path, file: str) -> dict[str, Any]:
    """Return the stages of both files of a name, `dvc.yaml` or `dvc.lock`, by the names that `dvc repro` takes."""
    found: dict[str, Any] = {}
    for folder, prefix in (("", ""), ("ablations", "ablations/dvc.yaml:")):
        if (path := root / folder / file).is_file():
            document = params.parse(path)
            found |= {prefix + name: stage for name, stage in document["stages"].items()}
    return found


def models_digest(root: Path) -> str:
    """Return the first characters of a hash over the committed models and classifiers."""
    folder = root / "reports" / params.SOURCE / "checkpoint"
    return files.fingerprint([], sorted(folder.rglob("*.safetensors")))[:8]


class Site:
    """The pages that can be reached from the README, and the files that they link to.

    executed: the folder of the notebooks that the preset of params.yaml, `preset`, left.
    files: contents by path in the site. bodies: HTML by page. titles: by page, its name in the list of pages.
    """

    def __init__(self, root: Path, executed: Path, preset: str):
        self.root, self.executed, self.preset, self.exporter = root.resolve(), executed, preset, notebook_exporter()
        self.stages, self.locked = (dvc_stages(root, file) for file in ("dvc.yaml", "dvc.lock"))
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
            text = (executed if source.suffix == ".ipynb" and executed.is_file() else source).read_text("utf-8")
            if source.suffix == ".ipynb":
                notebook = nbformat.reads(text, as_version=4)
                about = {"provenance": self.provenance(source.stem, text, notebook)}
                body, _ = self.exporter.from_notebook_node(notebook, about)
            else:
                body = markdown(text)
        except (OSError, ValueError, nbformat.ValidationError, files.FileError) as error:
            raise files.FileError(f"{source}: cannot be made a page: {error}") from None
        heading = re.search(r"<h1.*?>(.*?)</h1>", body, re.DOTALL)
        self.titles[name] = re.sub(r"<.*?>", "", heading[1]) if heading else source.stem
        self.bodies[name] = re.sub(
            r'(<(?:a|img)\b[^>]*?)\b(href|src)="([^"]*)"', lambda m: m[1] + self.link(m[2], m[3], source.parent), body
        )

    def provenance(self, stem: str, text: str, notebook: nbformat.NotebookNode) -> str:
        """Return, in HTML, what made the figures and tables of a notebook; "" where no DVC stage runs it.

        The hash is over the MD5s of the stage's dependencies, or over the committed models with the preset `published`.
        It is left out where dvc.lock has another copy than this.
        """
        runs = re.compile(rf"python -m qmvae notebook (--preset \w+ )?{re.escape(stem)}")
        stage = next((name for name, about in self.stages.items() if runs.fullmatch(str(about.get("cmd")))), "")
        cells = "\n".join(cell.source for cell in notebook.cells if notebooks.has_parameters(cell))
        if not stage or not (found := re.search(r'(?m)^preset = "(\w+)"', cells)):
            return ""
        if (preset := found[1]) != params.PUBLISHED and "matrix" in self.stages[stage]:
            stage += f"@{preset}"
        again = f"dvc repro {stage}" if preset == self.preset else f"python -m qmvae notebook --preset {preset} {stem}"
        locked, inputs = self.locked.get(stage, {}), ""
        made = {out["path"]: out.get("md5") for out in locked.get("outs", [])}
        if made.get(f"reports/{preset}/notebooks/{stem}.ipynb") == hashlib.md5(text.encode()).hexdigest():
            digest = hashlib.sha256("".join(dep["md5"] for dep in locked["deps"]).encode()).hexdigest()
            inputs = f", inputs <code>{digest[:8]}</code>"
        elif preset == params.PUBLISHED:
            inputs = f", models <code>{models_digest(self.root)}</code>"
        return f"notebooks/{stem}.ipynb (DVC stage <code>{stage}</code>{inputs}). Command: <code>{again}</code>"

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
        sizes = {option: getattr(layer, option) for option in ("kernel_size", "stride", "padding", "output_padding")}
        if layer.groups != 1 or layer.dilation != (1, 1) or any(height != width for height, width in sizes.values()):
            raise ValueError(f"{layer}: playground.js runs square kernels without groups and dilation only")
        found |= {option: height for option, (height, _) in sizes.items()}
    elif not isinstance(layer, nn.Linear | nn.ReLU | nn.Sigmoid):
        raise ValueError(f"{layer}: playground.js has no such layer")
    return found | {name: _base64(tensor, "<f2") for name, tensor in layer.state_dict().items()}


def _base64(tensor: Tensor, kind: str) -> str:
    return base64.b64encode(tensor.numpy().astype(kind).tobytes()).decode()


def api() -> Iterator[dict[str, Any]]:
    """Yield the modules of API: name, path, docstring and entries. The code is parsed, not imported."""
    root = WEB.parents[1]
    for path in (path for pattern in API for path in sorted((root / "qmvae").glob(pattern))):
        tree, place = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(root)
        name = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
        yield {"name": name, "path": place.as_posix(), "text": paragraphs(tree), "entries": list(entries(tree.body))}


def entries(body: list[ast.stmt], owner: str = "") -> Iterator[dict[str, Any]]:
    """Yield the public classes and functions in the order of the code, each class before its methods."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            name = owner + node.name
            yield {"name": name, "line": node.lineno, "signature": signature(node, name), "text": paragraphs(node)}
            if isinstance(node, ast.ClassDef):
                yield from entries(node.body, f"{name}.")


def signature(node: ast.ClassDef | ast.FunctionDef, name: str) -> str:
    """Return the signature of a function; of a class, its bases, and on a line of its own how to make an instance."""
    if isinstance(node, ast.FunctionDef):
        returns = ast.unparse(node.returns) if node.returns else ""
        if any(isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list):
            return f"{name}: {returns}"
        return f"{name}({arguments(node)})" + (f" -> {returns}" if returns else "")
    bases = ", ".join(map(ast.unparse, node.bases))
    makers = [arguments(n) for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    fields = ", ".join(ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign))
    made = (makers or [fields])[0]
    return f"class {name}" + (f"({bases})" if bases else "") + (f"\n{name}({made})" if made else "")


def arguments(node: ast.FunctionDef) -> str:
    return re.sub(r"^self(, )?", "", ast.unparse(node.args))


def paragraphs(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> list[tuple[bool, str]]:
    """Return the paragraphs of a docstring in HTML, and whether each has equations, or lines that are indented."""
    parts = re.split(r"\n\s*\n", ast.get_docstring(node) or "")
    code = (re.sub("`(.+?)`", r"<code>\1</code>", html.escape(part, quote=False)) for part in parts if part)
    return [(bool(re.search(r"(?m)^ |^\S+ = | {4}\(Eq", part)), part) for part in code]


def build(run: params.Params, trained: params.Params) -> dict[str, bytes]:
    """Return all files of the site by path. Raises FileError if a notebook, the images or the model is missing.

    run: the pages show the outputs of its notebooks. trained: the playground has its first Q-MVAE and its test images.
    """
    site = Site(run.root, run.reports / "notebooks", run.preset)
    chapters = [name for source, name in site.names.items() if name == "index.html" or source.suffix == ".ipynb"]
    dataset = artifacts.load_dataset(trained)
    numbers = portable(artifacts.load_model(trained, "qmvae"), dataset)
    script = f"const PLAYGROUND = {json.dumps(numbers, ensure_ascii=False, separators=(',', ':'))};\n"
    site.files |= {"playground-data.js": script.encode()}
    site.files |= {name: (WEB / name).read_bytes() for name in ("style.css", "playground.js")}
    site.titles = {"index.html": "", "playground.html": "Playground", "api.html": "API"} | site.titles  # as listed
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(WEB), trim_blocks=True)
    of_model, shown = (" and ".join(titles.values()) for titles in (trained.images.titles, dataset.titles))
    about = {"images": of_model, "shown": shown, "run": trained, "modules": list(api())}
    site.bodies |= {name: templates.get_template(name).render(about) for name in ("playground.html", "api.html")}
    page = templates.get_template("page.html")
    for name, body in site.bodies.items():
        text = page.render(title=site.titles[name], pages=site.titles, here=name, body=body, chapters=chapters)
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
        write(build(run, params.load(params.PUBLISHED)), run.root / "reports" / "site")
    except (params.ParamsError, files.FileError, DataError) as error:
        raise SystemExit(f"site: {error}") from None


if __name__ == "__main__":
    main()
