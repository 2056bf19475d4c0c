"""The README, the notebooks and a playground as web pages: `python -m qmvae.site` writes reports/site.

Everything that a page shows lies beside it, so that it opens from a folder as well as from a server, without a network.
Equations become MathML, which browsers draw by themselves.
"""

import html
import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jinja2
import latex2mathml.converter
import nbformat
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from qmvae import checkpoint, data, files, playground
from qmvae.params import Params, ParamsError, load

WEB = Path(__file__).parent / "web"


def mathml(tex: str, block: bool) -> str:
    """An equation in MathML; the number that its \\tag gives stands at the right. FileError if it can't be had."""
    number = re.search(r"\\tag\{(.*?)\}", tex)
    plain = re.sub(r"\\tag\{.*?\}", "", tex).replace("{aligned}", "{align*}").strip()  # as the converter calls it
    try:
        found = latex2mathml.converter.convert(plain, display="block" if block else "inline")
    except Exception as error:  # of many kinds without a common one
        raise files.FileError(f"the equation {tex!r} cannot be read: {error!r}") from None
    if unknown := re.search(r"\\[A-Za-z]+|<mi>&</mi>", found):
        raise files.FileError(f"the equation {tex!r} cannot be written in MathML: {unknown[0]}")
    found = re.sub(r"(<mi>[a-z]{2,}</mi>)(?=<mi>)", r'\1<mspace width="0.167em" />', found)  # the space in ln p
    if not block:
        return found
    return f'<span class="equation">{found}{f"<span>({number[1]})</span>" if number else ""}</span>'


class Renderer(IPythonRenderer):
    """Markdown as JupyterLab and GitHub read it, with headings named as GitHub does."""

    def __init__(self):
        super().__init__(escape=False)

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
    return MarkdownWithMath(renderer=Renderer()).render(text)


def cell(found: nbformat.NotebookNode) -> str:
    """A cell in HTML. Markdown stands by itself, so that a <details> may begin in one cell and end in a later one."""
    if found.cell_type != "code":
        return markdown(found.source) if found.cell_type == "markdown" else ""
    code = highlight(found.source, PythonLexer(), HtmlFormatter(wrapcode=True))
    shown = "".join(output(each, found.metadata.get("alt")) for each in found.outputs)
    text = code + (f'<div class="output">{shown}</div>\n' if shown else "")
    if found.metadata.get("jupyter", {}).get("source_hidden"):
        title = "Solution" if "solution" in found.metadata.get("tags", []) else "Code"
        return f"<details><summary>{title}</summary>\n{text}</details>\n"
    return text


def output(found: nbformat.NotebookNode, alt: str | None) -> str:
    """One output of a cell in HTML: the richest form of it that a page can show. alt: what its picture shows."""
    if found.output_type == "stream":
        return f"<pre>{html.escape(strip_ansi(found.text))}</pre>\n"
    if found.output_type == "error":
        return f"<pre>{html.escape(strip_ansi(chr(10).join(found.traceback)))}</pre>\n"
    forms, plain = found.data, found.data.get("text/plain", "")
    for kind in ("image/png", "image/jpeg"):
        if kind in forms:
            source = "".join(forms[kind].split())
            return f'<p><img alt="{html.escape(alt or plain)}" src="data:{kind};base64,{source}"></p>\n'
    if "text/html" in forms:
        return forms["text/html"] + "\n"
    if "text/markdown" in forms:
        return markdown(forms["text/markdown"])
    return f"<pre>{html.escape(strip_ansi(plain))}</pre>\n"


class Site:
    """The pages that can be reached from the README, and the files that they link to.

    files: by its path in the site, what each holds. titles: by page, what the list of pages calls it.
    """

    def __init__(self, root: Path, executed: Path):
        self.root, self.executed = root.resolve(), executed
        self.files: dict[str, bytes] = {}
        self.titles: dict[str, str] = {}
        self.bodies: dict[str, str] = {}
        self.waiting = [self.root / "README.md", *sorted((self.root / "notebooks").glob("*.ipynb"))]
        self.names = {source: self.name(source) for source in self.waiting}
        while self.waiting:
            self.read(self.waiting.pop(0))

    def name(self, source: Path) -> str:
        path = source.relative_to(self.root).with_suffix(".html")
        return {"README.html": "index.html"}.get(str(path), "-".join(path.parts).removeprefix("notebooks-"))

    def read(self, source: Path) -> None:
        """Turn a Markdown file or a notebook into the body of its page. FileError names the file at fault."""
        name, executed = self.names[source], self.executed / source.name
        try:
            if source.suffix == ".ipynb":  # its copy of this preset if there is one
                notebook = nbformat.read(executed if executed.is_file() else source, as_version=4)
                body = "".join(cell(each) for each in notebook.cells)
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
        """The attribute `href` or `src` of an address in a file of `folder`, as it is on the site.

        What is in the repository becomes a page or is copied; what can't be had, a folder say, is a link no more.
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
                self.names[target] = self.name(target)
                self.waiting.append(target)
            return f'{attribute}="{self.names[target]}{fragment}"'
        path = f"files/{target.relative_to(self.root).as_posix()}"
        self.files[path] = target.read_bytes()
        return f'{attribute}="{path}"'


def template(name: str) -> jinja2.Template:
    return jinja2.Template((WEB / name).read_text(encoding="utf-8"), trim_blocks=True)


def build(params: Params) -> dict[str, bytes]:
    """All files of the site by their path in it. Raises FileError where a notebook, the images or the model is missing
    or at fault."""
    site = Site(params.root, params.reports / "notebooks")
    seed = params.seeds[0]
    model = checkpoint.load(params.model_folder("qmvae", seed))
    numbers = playground.portable(model, data.load(params))
    script = f"const PLAYGROUND = {json.dumps(numbers, ensure_ascii=False, separators=(',', ':'))};\n"
    site.files |= {"playground-data.js": script.encode()}
    site.files |= {name: (WEB / name).read_bytes() for name in ("style.css", "playground.js")}
    site.titles = {"index.html": "", "playground.html": "Playground"} | site.titles  # in the order of the list
    about = f"Q-MVAE as the preset {params.preset} has trained it (seed {seed})"
    site.bodies["playground.html"] = template("playground.html").render(about=about)
    page = template("page.html")
    for name, body in site.bodies.items():
        text = page.render(title=site.titles[name], pages=site.titles, here=name, body=body, preset=params.preset)
        site.files[name] = text.encode()
    return site.files


def write(built: dict[str, bytes], folder: Path) -> None:
    """Write the files in the place of what the folder held."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in built.items():
        with files.replacing(folder / path) as partial:
            partial.write_bytes(content)


def main() -> None:
    try:
        params = load()
        write(build(params), params.root / "reports" / "site")
    except (ParamsError, files.FileError) as error:
        raise SystemExit(f"site: {error}") from None


if __name__ == "__main__":
    main()
