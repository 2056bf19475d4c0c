"""The site: each page whole and without a network; in a browser, readable at any width, and its decoder is torch's."""

import base64
import contextlib
import copy
import hashlib
import html.parser
import json
import re
import shutil
from pathlib import Path

import jinja2
import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from tiny import ROOT, make_data, write_project
from torch import nn

from qmvae.data.dataset import Dataset, Split
from qmvae.pipeline import artifacts, checkpoint, params
from qmvae.pipeline.files import FileError
from qmvae.pipeline.params import load
from qmvae.pipeline.sections import Likelihood
from qmvae.report import playground
from tools import site

WIDTHS = 1400, 800, 360  # pixels, of a desktop, a tablet and a phone

README = r"""# A tiny project

See [the story](notebooks/01_story.ipynb#the-end), [the terms](docs/terms.md), [the figures](reports/tiny/figures),
[what is not there](lost.md), [a line of it](#a-wide-table), [the data](data.csv), and [a stranger](https://example.org/).

![A grey square](square.png)

<img src="square.png" alt="The same square, as HTML">

## A wide table

| $\mu \mid \sigma$ | a heading of some length | a heading of some length | another | a_word_that_cannot_be_broken |
|---|---|---|---|---|
| 1.0 ± 0.1<!-- a.json b.c % --> | **2.0 ± 0.1<!-- a.json b - c -->** | 3.0 ± 0.1 | 4.0 ± 0.1 | 5.0 ± 0.1 |

<!-- table a.md -->

| a |
|---|
| 6.0<!-- by hand: a reason --> |

<!-- end -->

```
make something    # with a line of code that is far too long for a telephone, so that it must be scrolled by itself
```
"""

EQUATIONS = r"""# 01 · The story

Inline, $z = \mu + \sigma \odot \varepsilon$, costs $1 < 2$, and on a line of its own, numbered:

$$\begin{aligned} L_{\mathrm{ELBO}(x,y)} =\; & E_{q(z|x,y)q(h_x|x)}[\ln p(x \mid z, h_x)]
+ E_{q(z|x,y)q(h_y|y)}[\ln p(y \mid z, h_y)] \\
& - D_{\mathrm{KL}}[q(z \mid x, y) \,\|\, p(z)] - D_{\mathrm{KL}}[q(h_x \mid x) \,\|\, p(h_x)] \end{aligned} \tag{7}$$

Back to [the README](../README.md).

<details>
<summary>A fold that begins here</summary>

with *Markdown* in it
"""


def write_story(folder: Path) -> None:
    """A notebook with every kind of cell and output."""
    square = base64.b64encode(playground.png(np.full((9, 200, 3), 0.5))).decode()
    alone = {"image/png": square, "text/plain": "<Figure size 1x1>"}
    circle = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" width="90"><circle cx="4" cy="4" r="4"/></svg>'
    table = f"<table border='1'><tr>{''.join(f'<td>{10**k}</td>' for k in range(16))}</tr></table>"
    outputs = [
        new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m <b> " + "a long line " * 20),
        new_output("display_data", data=alone),
        new_output("display_data", data={"image/svg+xml": circle, "text/plain": "<SVG>"}),
        new_output("execute_result", data={"text/html": table, "text/plain": "1 10 100"}),
        new_output("display_data", data={"text/markdown": "**bold** $h_x$", "text/plain": "bold"}),
    ]
    folded = {"jupyter": {"source_hidden": True}, "tags": ["solution"]}
    cells = [
        new_markdown_cell(EQUATIONS),
        new_code_cell('preset = "tiny"', metadata={"tags": ["parameters"]}),
        new_code_cell("print('a' * 3)  # " + "long " * 40, outputs=outputs, metadata={"alt": 'A bar, "grey"'}),
        new_markdown_cell("</details>\n\n## The end"),
        new_code_cell("1 + 1", outputs=[new_output("execute_result", data={"text/plain": "2"})], metadata=folded),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), folder / "01_story.ipynb")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of other modalities than the paper's with an untrained model; its parameters."""
    root = write_project(tmp_path_factory.mktemp("project"), seeds=[0])
    text = (root / "params.yaml").read_text().replace("mnist", "pen").replace("svhn", "house")
    (root / "params.yaml").write_text(text)
    for old, new in (("mnist", "pen"), ("svhn", "house")):
        (root / "data" / f"{old}.npz").rename(root / "data" / f"{new}.npz")
    run = make_data(root)
    torch.manual_seed(0)
    model = checkpoint.build_model("qmvae", run.qmvae, artifacts.load_dataset(run).shapes, run.networks)
    with torch.no_grad():
        for layer in model.decoders.parameters():
            layer.mul_(3)  # far from grey
    checkpoint.save_model(run.model_folder("qmvae", 0), model, "qmvae", run.networks, {})
    write_story(run.reports / "notebooks")
    (root / "notebooks").mkdir()
    for stem, text in (("01_story", "# not run"), ("02_more", "# 02 · More")):
        nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), root / "notebooks" / f"{stem}.ipynb")
    (root / "docs").mkdir()
    (root / "docs" / "terms.md").write_text(
        "# Terms\n\n$q_\\phi(z \\mid x)$, in [the story](../notebooks/01_story.ipynb)"
    )
    (root / "data.csv").write_text("1,2")
    (root / "square.png").write_bytes(playground.png(np.full((200, 200, 3), 0.5)))
    (root / "README.md").write_text(README)
    return run


@pytest.fixture(scope="module")
def built(project):
    return site.build(project, project)


class Page(html.parser.HTMLParser):
    """What a page is made of: ids, links, images, other things it loads, equations, its text without code."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.images, self.loaded, self.equations = set(), [], [], [], 0
        self.text, self.code = "", 0
        self.feed(text)

    def handle_data(self, data):
        self.text += "" if self.code else data

    def handle_endtag(self, tag):
        self.code -= tag in ("pre", "code")

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        self.equations += tag == "math"
        self.code += tag in ("pre", "code")
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "img":
            self.images.append(found)
        elif tag in ("script", "link", "iframe", "video", "source"):
            self.loaded.append(found.get("src") or found.get("href"))


def check(files: dict[str, bytes]) -> dict[str, Page]:
    """Every address leads to something that is there, nothing comes from elsewhere, every image says what it is."""
    pages = {name: Page(content.decode()) for name, content in files.items() if name.endswith(".html")}
    for name, page in pages.items():
        for address in page.links:
            path, _, fragment = address.partition("#")
            if not address.startswith("https://"):
                assert (path or name) in files, f"{name}: {address}"
                assert not fragment or fragment in pages[path or name].ids, f"{name}: {address}"
        for image in page.images:
            assert image["alt"].strip(), f"{name}: an image without alt text"
        for address in [*page.loaded, *(image["src"] for image in page.images)]:
            assert address.startswith("data:") or address in files, f"{name}: {address[:80]}"
    return pages


def test_links_images_and_equations_of_every_page(built):
    pages = check(built)
    names = ["index.html", "01_story.html", "02_more.html", "docs-terms.html", "playground.html", "api.html"]
    assert list(pages) == names
    assert [page.equations for page in pages.values()] == [1, 4, 0, 1, 0, 0]
    assert set(pages["index.html"].links) >= {"01_story.html#the-end", "docs-terms.html", "files/data.csv"}
    index = built["index.html"].decode()
    assert "<a>the figures</a>" in re.sub("<a >", "<a>", index) and "lost.md" not in index  # text, no links
    story = built["01_story.html"].decode()
    assert "not run" not in story and "<details><summary>Solution</summary>" in story and "<span>(7)</span>" in story
    assert story.count('alt="A bar, &#34;grey&#34;"') == 2 and "red &lt;b&gt;" in story and "\x1b" not in story
    cells = "<td>1.0 ± 0.1<!-- a.json b.c % --></td>\n  <td><strong>2.0 ± 0.1<!-- a.json b - c --></strong></td>"
    assert cells in index and "<td>6.0<!-- by hand: a reason --></td>" in index  # comments, which browsers do not show
    assert sum(map(len, built.values())) < 5e6


def test_the_committed_readme_and_notebooks():
    """Also that the small notebook above is not kinder than the real ones."""
    found = site.Site(ROOT, ROOT / "reports" / "subset" / "notebooks", "subset")
    stems = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {f"{stem}.html" for stem in stems} | {"index.html"} <= set(found.bodies)
    for name, body in found.bodies.items():
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", body, flags=re.DOTALL)
        assert not re.search(r"\$\$|\\(begin|frac|mathrm|tag)", text), f"{name}: TeX is left"
        assert not re.search(r"<!--|-->", Page(body).text), f"{name}: a comment is shown"
    assert Page(found.bodies["02_model.html"]).equations > 20
    for stem in stems:  # each has a figure or a table, and a stage of one of the two dvc.yaml
        [about] = set(re.findall('"provenance">(.*?)</p>', found.bodies[f"{stem}.html"]))
        assert about.startswith(f"notebooks/{stem}.ipynb (DVC stage <code>")
        if "--preset published" in about:
            assert f", models <code>{site.models_digest(ROOT)}</code>)" in about
    check(found.files | {name: body.encode() for name, body in found.bodies.items()})


def test_the_same_bytes_twice_and_nothing_left_of_before(built, project, tmp_path):
    assert site.build(project, project) == built
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "old.html").touch()
    site.write(built, tmp_path / "site")
    written = {
        path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*") if path.is_file()
    }
    assert written == set(built)


def test_the_repository_alone_is_copied(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    (root / "README.md").write_text("# a\n\n[out](../secret.txt) [link](link.txt) [root](/etc/hostname)")
    found = site.Site(root, root, "tiny")
    assert found.files == {} and "href" not in found.bodies["index.html"]


@pytest.mark.parametrize("tex", [r"\nosuchthing{x}", r"\begin{aligned} a & b"])
def test_an_equation_that_cannot_be_converted_stops_the_build(tex, tmp_path):
    (tmp_path / "README.md").write_text(f"# a\n\n${tex}$")
    with pytest.raises(FileError, match=r"README\.md: cannot be made a page: the equation"):
        site.Site(tmp_path, tmp_path, "tiny")


def test_a_missing_model_is_named(project):
    training = {name: own.model_copy(update={"seeds": [7]}) for name, own in project.training.items()}
    with pytest.raises(FileError, match="model.json: file not found"):
        site.build(project, project.model_copy(update={"training": training}))


def test_readers_go_from_page_to_page(built):
    """The playground is one click from the top; notebooks lead to the ones before and after, above and below."""
    pages = {name: content.decode() for name, content in built.items() if name.endswith(".html")}
    assert all('href="playground.html"' in text.partition("<main>")[0] for text in pages.values())
    assert 'href="playground.html"' in pages["index.html"].partition("<h1")[0].partition("<main>")[2]
    steps = {name: re.findall(r'rel="(prev|next)" href="(.*?)"', text) for name, text in pages.items()}
    assert steps["index.html"] == [("next", "01_story.html")]
    assert steps["01_story.html"] == 2 * [("prev", "index.html"), ("next", "02_more.html")]
    assert steps["02_more.html"] == 2 * [("prev", "01_story.html")]
    assert not steps["docs-terms.html"] and not steps["api.html"]


def test_the_playground_says_which_images_it_has(built, project):
    text = built["playground.html"].decode()
    assert "trained on MNIST and SVHN subset (preset tiny, seed 0)" in text and "not trained" not in text
    template = jinja2.Environment(loader=jinja2.FileSystemLoader(site.WEB)).get_template("playground.html")
    assert "The test images are B, on which this model was not trained" in template.render(
        images="A", shown="B", run=project
    )


DVC = """stages:
  fig1:
    matrix: {preset: ["${preset}"]}
    cmd: python -m qmvae notebook 01_story
  other:
    cmd: python -m qmvae notebook --preset published 02_more
"""


def test_figures_and_tables_say_what_made_them(tmp_path):
    """With a hash of the stage's inputs where dvc.lock knows the copy that is shown; nothing where no stage runs it."""
    (tmp_path / "README.md").write_text("# a")
    for folder in ("notebooks", "done"):
        write_story(tmp_path / folder)

    def lines(preset="tiny"):
        return set(
            re.findall('"provenance">(.*?)</p>', site.Site(tmp_path, tmp_path / "done", preset).bodies["01_story.html"])
        )

    assert lines() == set()
    (tmp_path / "dvc.yaml").write_text(DVC)
    about = "notebooks/01_story.ipynb (DVC stage <code>fig1@tiny</code>"
    assert lines() == {f"{about}). Command: <code>dvc repro fig1@tiny</code>"}
    assert lines("quick") == {f"{about}). Command: <code>python -m qmvae notebook --preset tiny 01_story</code>"}
    shown = tmp_path / "done" / "01_story.ipynb"
    digest = hashlib.md5(shown.read_bytes()).hexdigest()
    out = f"{{path: reports/tiny/notebooks/01_story.ipynb, md5: {digest}}}"
    (tmp_path / "dvc.lock").write_text(
        f"stages: {{fig1@tiny: {{deps: [{{path: a, md5: b}}, {{path: c, md5: d}}], outs: [{out}]}}}}"
    )
    inputs = hashlib.sha256(b"bd").hexdigest()[:8]
    assert lines() == {f"{about}, inputs <code>{inputs}</code>). Command: <code>dvc repro fig1@tiny</code>"}
    shown.write_text(shown.read_text().replace("red", "blue"))
    assert lines() == {f"{about}). Command: <code>dvc repro fig1@tiny</code>"}


def test_the_api_has_signatures_docstrings_and_equations(built):
    text = built["api.html"].decode()
    for module in (
        "qmvae",
        "qmvae.model.qmvae",
        "qmvae.baselines.dmvae",
        "qmvae.evaluate.evaluator",
        "qmvae.report.tables",
    ):
        assert f'<h2 id="{module}">' in text
    assert '<h3 id="qmvae.load"><code>load(folder, device=&#39;cpu&#39;)</code></h3>' in text
    assert "<code>class QMVAE(MultimodalVAE)</code>" in text and "<code>MultimodalVAE.shared(images: Mapping[" in text
    assert "<pre>q(z|x,y) is proportional to p(z) q(z|x) q(z|y)    (Eq. 8)</pre>" in text
    assert "<code>Dataset.shapes: dict[str, tuple[int, int, int]]</code>" in text
    assert re.search(r"qmvae/model/base\.py, line \d+", text) and "_checked" not in text


def test_the_workflows_have_what_github_needs():
    found = {}
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        found[path.stem] = params.parse(path)
    assert set(found) == {"pages", "test"}
    for workflow in found.values():
        assert workflow["name"] and workflow["on"]
        for job in workflow["jobs"].values():
            assert job["runs-on"] and all(("uses" in step) != ("run" in step) for step in job["steps"])
    uses = [step.get("uses", "").partition("@")[0] for job in found["pages"]["jobs"].values() for step in job["steps"]]
    assert uses[-2:] == ["actions/upload-pages-artifact", "actions/deploy-pages"]
    assert found["pages"]["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    assert found["pages"]["jobs"]["deploy"]["needs"] == "build"
    assert found["pages"]["jobs"]["deploy"]["environment"]["name"] == "github-pages"
    assert {"push", "pull_request"} <= set(found["test"]["on"])
    assert found["test"]["jobs"]["test"]["steps"][-1]["run"] == "make test"


# In a browser: `pip install playwright`, and Chromium, the system's own or that of `playwright install chromium`.


@pytest.fixture(scope="module")
def browser():
    cure = (
        "to see the pages in a browser: pip install playwright, then playwright install chromium (or have a Chromium)"
    )
    sync_api = pytest.importorskip("playwright.sync_api", reason=cure)
    with sync_api.sync_playwright() as player:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:
            chromium = player.chromium.launch(executable_path=path)
        except sync_api.Error as error:
            pytest.skip(f"{cure}; found: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    site.write(built, folder)
    return folder


@contextlib.contextmanager
def visits(browser, folder):
    """Open a page from its file; at the end no visit may have met an error or asked for anything that is not there."""
    faults, contexts = [], []

    def visit(name: str, width: int = 1200):
        context = browser.new_context(viewport={"width": width, "height": 800})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append(request.url))
        page.on("request", lambda r: None if r.url.startswith((folder.as_uri(), "data:")) else faults.append(r.url))
        page.goto((folder / name).as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture
def visit(browser, folder):
    with visits(browser, folder) as visit:
        yield visit


def shows_what_it_has_and_fits(visit, built):
    for name in (name for name in built if name.endswith(".html")):
        page = visit(name)
        page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name}: wider than {width}"
            sizes = page.evaluate(
                "[...document.querySelectorAll('math, img, canvas, pre, table')].map((e) => e.getBoundingClientRect())"
                ".map((box) => [box.width, box.height])"
            )
            assert len(sizes) >= built[name].count(b"<math"), name
            assert all(min(size) >= 4 for size in sizes), f"{name}: something is not shown at {width}"
            cut = page.evaluate(
                "[...document.querySelectorAll('pre, .highlight')].filter((e) => e.scrollWidth > e.clientWidth + 1"
                " && getComputedStyle(e).overflowX !== 'auto').map((e) => e.textContent)"
            )
            assert not cut, f"{name}: cut off at {width}: {cut[0][:200]}"
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)"), name
        page.close()


def test_every_page_shows_what_it_has_and_fits(visit, built):
    shows_what_it_has_and_fits(visit, built)


def test_every_page_of_this_project_does(browser, tmp_path):
    built = site.build(load("quick", ROOT), load(params.PUBLISHED, ROOT))
    site.write(built, tmp_path)
    assert {"index.html", "playground.html", "10_ablations.html", "docs-glossary.html"} <= set(built)
    assert sum(len(built[f"playground{part}"]) for part in (".html", ".js", "-data.js")) < 5 * 2**20
    with visits(browser, tmp_path) as visit:
        shows_what_it_has_and_fits(visit, built)


def test_folds_open_and_close_over_cells(visit):
    page = visit("01_story.html")
    inside = page.locator("main img").first  # of a code cell between the two that hold <details> and </details>
    assert not inside.is_visible() and page.locator("#the-end").is_visible()
    page.get_by_text("A fold that begins here").click()
    assert inside.is_visible()
    assert not page.get_by_text("1 + 1").is_visible()
    page.get_by_text("Solution").click()
    assert page.get_by_text("1 + 1").is_visible()


def test_pages_lead_to_each_other(visit):
    page = visit("index.html", 390)
    page.get_by_text("All pages").click()
    page.get_by_role("link", name="01 · The story", exact=True).click()
    assert page.url.endswith("01_story.html")
    page.get_by_role("link", name="the README").click()
    page.wait_for_load_state()
    assert page.title() == "A tiny project"


def test_the_decoder_in_the_page_is_torchs(visit, project):
    """Within float32's rounding of torch with the same half-precision weights; near torch with its own weights."""
    model = artifacts.load_model(project, "qmvae")
    halved = copy.deepcopy(model).half().float()
    page = visit("playground.html")
    generator = torch.Generator().manual_seed(0)
    z, h = torch.randn(8, model.sizes["shared"], generator=generator), model.private_prior(8, generator)
    for name in model.shapes:
        codes = [[name, *code] for code in zip(z.tolist(), h.tolist(), strict=True)]
        found = page.evaluate("(codes) => codes.map((code) => Array.from(decode(...code)))", codes)
        with torch.no_grad():
            same, own = (each.decode(name, z, h).flatten(1).numpy() for each in (halved, model))
        np.testing.assert_allclose(found, same, atol=1e-5)
        np.testing.assert_allclose(found, own, atol=5e-3)
        assert own.std() > 0.05  # images, not one grey


def test_the_page_generates_what_cross_generate_does(visit, project):
    model = artifacts.load_model(project, "qmvae")
    page = visit("playground.html")
    page.get_by_role("button", name="all 0").click()
    page.locator("#images button").nth(5).click()
    page.locator(".slider input").nth(2).fill("-1.5")
    first, second = model.shapes
    private = torch.zeros(1, model.sizes["private"])
    private[0, 2] = -1.5
    given = playground.examples(artifacts.load_dataset(project), first)[0][5:6]
    expected = 255 * model.cross_generate({first: given}, second, private=private)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(pixels(page, "generated"), expected, atol=1.5)
    np.testing.assert_allclose(pixels(page, "condition")[..., :1], 255 * given[0].permute(1, 2, 0), atol=0.5)


def pixels(page, canvas: str) -> np.ndarray:
    """What a canvas shows: (height, width, 3), 0..255."""
    found = page.evaluate(
        "(id) => { const c = document.getElementById(id);"
        " const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        " return [c.height, c.width, Array.from(data)]; }",
        canvas,
    )
    return np.array(found[2]).reshape(found[0], found[1], 4)[..., :3]


def test_sliders_buttons_and_directions(visit):
    page = visit("playground.html", 390)
    first = pixels(page, "generated")
    page.get_by_role("button", name="all 0").click()
    condition, generated = pixels(page, "condition"), pixels(page, "generated")
    assert (generated != first).any()  # the page starts with the private code of the first image
    page.locator("#styles button").first.click()
    assert (pixels(page, "generated") == first).all()
    page.get_by_role("button", name="all 0").click()
    slider = page.locator(".slider input").first
    slider.focus()
    slider.press("End")
    assert page.locator(".slider output").first.inner_text() == "3.0"
    assert (pixels(page, "condition") == condition).all() and (pixels(page, "generated") != generated).any()
    page.get_by_role("button", name="all 0").click()
    assert (pixels(page, "generated") == generated).all()
    page.get_by_role("button", name="sample from the prior").click()
    assert (pixels(page, "generated") != generated).any()
    page.locator("#styles button").nth(7).click()
    style = pixels(page, "generated")
    page.locator("#images button").nth(9).click()
    assert (pixels(page, "condition") != condition).any() and (pixels(page, "generated") != style).any()
    assert page.locator("#images button[aria-pressed=true]").count() == 1
    page.locator("#direction").select_option(index=1)
    assert pixels(page, "condition").shape == generated.shape
    assert page.locator("#generated-title").inner_text() == "generated: MNIST"


def test_the_numbers_of_the_page_are_a_script_and_nothing_else(built):
    text = built["playground-data.js"].decode()
    assert text.startswith("const PLAYGROUND = {") and text.endswith("};\n")
    assert json.loads(text.removeprefix("const PLAYGROUND = ").removesuffix(";\n"))["private"] == 10


SHAPES = {"pen": (1, 12, 12), "house": (3, 16, 16), "sign": (3, 16, 16)}


@pytest.fixture
def world():
    """A fresh model and random images of three modalities that the code has never heard of; three classes only."""
    torch.manual_seed(0)
    likelihood = {name: Likelihood(family="laplace", scale=1.0, weight=1.0) for name in SHAPES}
    changes = {"likelihood": likelihood, "kl_private": dict.fromkeys(SHAPES, 1.0)}
    config = load(root=ROOT).qmvae.model_copy(update=changes)
    networks = {"pen": "mlp", "house": "conv", "sign": "conv"}
    model = checkpoint.build_model("qmvae", config, SHAPES, networks).eval()
    images = {name: torch.randint(0, 256, (30, *shape), dtype=torch.uint8) for name, shape in SHAPES.items()}
    labels = {name: torch.tensor([0, 5, 9] * 10) for name in SHAPES}
    split = Split(images, labels, torch.zeros(1, 3, dtype=torch.int32))
    return model, Dataset(split, split, {name: name.title() for name in SHAPES})


def test_the_numbers_for_the_web_are_the_model(world):
    model, dataset = world
    numbers = json.loads(json.dumps(site.portable(model, dataset)))
    assert list(numbers["modalities"]) == list(SHAPES) and numbers["private"] == 10
    for name, found in numbers["modalities"].items():
        assert found["labels"] == [0] * 4 + [5] * 4 + [9] * 4 and tuple(found["shape"]) == SHAPES[name]
        images = np.frombuffer(base64.b64decode(found["images"]), "u1").reshape(12, *SHAPES[name])
        assert (images[4] == dataset.test.images[name][1].numpy()).all()  # the first 5
        given = {name: torch.tensor(images).float() / 255}
        shared = np.frombuffer(base64.b64decode(found["shared"]), "<f4").reshape(12, 20)
        np.testing.assert_array_equal(shared, model.shared(given).mean.detach())
        private = np.frombuffer(base64.b64decode(found["private"]), "<f4").reshape(12, 10)
        np.testing.assert_array_equal(private, model.private(name, given[name]).mean.detach())
        assert [layer["kind"] for layer in found["decoder"]] == [type(m).__name__ for m in model.decoders[name]]
        first = np.frombuffer(base64.b64decode(found["decoder"][0]["weight"]), "<f2")
        np.testing.assert_allclose(first, model.decoders[name][0].weight.detach().flatten(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("layer", [nn.Tanh(), nn.ConvTranspose2d(4, 4, (3, 5)), nn.ConvTranspose2d(4, 4, 3, groups=2)])
def test_a_layer_that_the_page_cannot_run_is_refused(layer):
    with pytest.raises(ValueError, match="playground.js"):
        site._layer(layer)
