"""For MkDocs: what the site has beside pages in `docs/`: README, notebooks, API reference, files that pages link to."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
from notebook_pages import notebook_page
from public_names import MODULES, PublicName, array_types, docstring, module_docstring, public_names, summary

ROOT = Path(__file__).parent.parent
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "tests/gpu.md": "tests_on_a_gpu.md",
}
"""Pages that stand elsewhere in the repository, and what they are in the site."""

_ASSETS = ("favicon.svg", "style.css")
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
_LOADS = re.compile(r"<(?:script|img|link|iframe|source)[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*\"[^>]*>")
_LANGUAGES = {".py": "python", ".json": "json", ".sh": "bash", ".toml": "toml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the reference into the navigation."""
    config.nav = [{"Reference": _reference_nav()} if "Reference" in entry else entry for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what does not lie in `docs/`."""
    for source, target in _PAGES.items():
        _add(files, config, target, _relinked(ROOT / source, Path(target)))
    for name in _ASSETS:
        _add(files, config, name, (ROOT / "website" / name).read_text(encoding="utf-8"))
    for path, text in _reference_pages().items():
        _add(files, config, path, text)
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page, place = notebook_page(path), Path("notebooks", f"{path.stem}.md")
        _add(files, config, place.as_posix(), _relinked(path, place, page.text))
        for name, image in page.images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=image))
    for path in _linked_sources():
        _add(files, config, f"{_source_page(path)}", _source_text(path), in_nav=False)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave `docs/` to where the site has what they mean."""
    if page.file.generated_by is not None:
        return markdown
    return _relinked(Path(config.docs_dir) / page.file.src_uri, Path(page.file.src_uri), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """On pages of the reference the line that imports the name stands above the heading, which comes with it: swap."""
    first, heading, rest = html.partition("</h1>")
    if not page.file.src_uri.startswith("reference/") or "<h1" not in first or not heading:
        return html
    above, h1, title = first.partition("<h1")
    wrapper = above.rfind('<div class="doc doc-object')
    if wrapper < 0:
        return html
    return f"{above[wrapper:]}{h1}{title}{heading}{above[:wrapper]}{rest}"


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that loads anything from elsewhere.

    Raises:
        PluginError: a page does.
    """
    for page in Path(config.site_dir).rglob("*.html"):
        if found := _LOADS.search(page.read_text(encoding="utf-8")):
            raise PluginError(f"{page}: {found[0]} is loaded from elsewhere; the site has to work offline.")


def _add(files: Files, config: MkDocsConfig, path: str, text: str, *, in_nav: bool = True) -> None:
    file = File.generated(config, path, content=text)
    if not in_nav:
        file.inclusion = InclusionLevel.NOT_IN_NAV
    files.append(file)


def _relinked(file: Path, page: Path, text: str | None = None) -> str:
    """A file's text, its links to files of the repository made links within the site."""

    def place(match: re.Match) -> str:
        target = Path(os.path.normpath(file.parent / match[1]))
        if not target.is_relative_to(ROOT):
            return match[1]
        relative = target.relative_to(ROOT)
        if relative.as_posix() in _PAGES:
            new = _PAGES[relative.as_posix()]
        elif relative.parts[0] == "docs":
            new = relative.relative_to("docs").as_posix()
        else:
            new = _source_page(relative)
        return os.path.relpath(new, page.parent)

    return _LINK.sub(place, file.read_text(encoding="utf-8") if text is None else text)


def _linked_sources() -> list[Path]:
    """Files and folders of the repository, outside of `docs/`, that pages link to."""
    found = set()
    for file in [*(ROOT / "docs").glob("*.md"), *(ROOT / page for page in _PAGES)]:
        for target in _LINK.findall(file.read_text(encoding="utf-8")):
            path = Path(os.path.normpath(file.parent / target))
            if path.is_relative_to(ROOT) and path.exists():
                relative = path.relative_to(ROOT)
                if relative.parts[0] != "docs" and relative.as_posix() not in _PAGES:
                    found.add(relative)
    return sorted(found)


def _source_page(path: Path) -> str:
    return f"source/{path.as_posix().replace('.', '_')}.md"


def _source_text(path: Path) -> str:
    head = f"---\nsearch:\n  exclude: true\n---\n\n# `{path.as_posix()}`\n\n"
    full = ROOT / path
    if full.is_dir():
        return head + "".join(f"- `{each.name}`\n" for each in sorted(full.iterdir()) if each.suffix == ".py")
    return f"{head}````{_LANGUAGES.get(path.suffix, 'text')}\n{full.read_text(encoding='utf-8')}\n````\n"


def _page_of(name: PublicName) -> str:
    return f"reference/{name.module}/{name.name}.md"


def _first_places() -> dict[str, PublicName]:
    """Each definition, and the first module that users can import it from: there its page is."""
    places: dict[str, PublicName] = {}
    for module in MODULES:
        for name in public_names(module):
            places.setdefault(name.path, name)
    return places


def _reference_nav() -> list[Any]:
    sections: list[Any] = ["reference/index.md", {"Array types": "reference/array_types.md"}]
    places = _first_places()
    for module in MODULES:
        own = sorted((name for name in places.values() if name.module == module), key=lambda name: name.name.lower())
        title = module.removeprefix("encdec_eqx.")
        sections.append({title: [f"reference/{module}/index.md", *({name.name: _page_of(name)} for name in own)]})
    return sections


def _array_types_page() -> str:
    """What annotations of arrays mean: the words for axes, and the types that have a name."""
    axes = module_docstring("encdec_eqx._typing").partition("\n\n")[2].partition("\n\n")[2]
    named = "".join(
        f"### `{name}` {{: #encdec_eqx._typing.{name} }}\n\n```python\n{said}\n```\n\n" for name, said in array_types()
    )
    return (
        "# Array types\n\nAnnotations of arrays are [jaxtyping](https://docs.kidger.site/jaxtyping/)'s: what kind of "
        'numbers, of which array, along which axes. `Float[Array, "batch source hidden"]` is a jax array of floats '
        "with three axes, and where a call has the word `batch` twice, both have the same size. A wrong shape or kind "
        "is a `TypeError`.\n\n"
        f"## Axes\n\n{axes}\n\n## Named types\n\n{named}"
    )


def _reference_pages() -> dict[str, str]:
    """The pages of the reference: an index of modules, of each module an index of its names, of each name its own."""
    places = _first_places()
    modules = "".join(
        f"| [`{module}`]({module}/index.md) | {summary(module_docstring(module))} |\n" for module in MODULES
    )
    head = "# API reference\n\nEvery name that is meant to be imported, by where it is imported from.\n\n"
    pages = {"reference/index.md": f"{head}| module | |\n|---|---|\n{modules}"}
    pages["reference/array_types.md"] = _array_types_page()
    for module in MODULES:
        rows = ""
        for name in sorted(public_names(module), key=lambda name: name.name.lower()):
            place = _page_of(places[name.path])
            link = os.path.relpath(place, f"reference/{module}")
            rows += f"| [`{name.name}`]({link}) | {summary(docstring(name))} |\n"
        pages[f"reference/{module}/index.md"] = (
            f"# `{module}`\n\n{module_docstring(module)}\n\n| name | |\n|---|---|\n{rows}"
        )
    for name in places.values():
        pages[_page_of(name)] = (
            f"---\ntitle: {name.name}\n---\n\n"
            f"```python\nfrom {name.module} import {name.name}\n```\n\n::: {name.path}\n"
        )
    return pages
