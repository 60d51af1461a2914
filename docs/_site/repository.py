"""MkDocs hook: links that are right in a checkout are right on the site.

Pages link to each other and to files of the project by relative paths, as any viewer of Markdown follows them. The site
has no README and no files outside docs/, so this hook makes README.md its first page and publishes each file that a
page links to.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
#: [text](path#anchor) and <img src="path"> without a scheme.
LINK = re.compile(r"""(?P<before>\]\(|<img src=")(?P<path>[^)"#:\s]+)(?P<after>#[^)"\s]*)?(?=[)"])""")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the README as the first page, and every file outside docs/ that some page links to."""
    files.append(File.generated(config, "index.md", content=moved(README.read_text(), ROOT, DOCS)))
    # Grows: what a published page links to is published, too.
    pages = [*files.documentation_pages()]
    for page in pages:
        folder = source_folder(page.src_uri)
        for link in LINK.finditer(page.content_string):
            target = (folder / link["path"]).resolve()
            outside = target.is_file() and target.is_relative_to(ROOT) and not target.is_relative_to(DOCS)
            if outside and target != README:
                published = f"files/{target.relative_to(ROOT)}"
                if files.get_file_from_path(published) is None:
                    # A page, too, without being one of the site's own.
                    apart = InclusionLevel.NOT_IN_NAV
                    files.append(File.generated(config, published, abs_src_path=str(target), inclusion=apart))
                    if target.suffix == ".md":
                        pages.append(files.get_file_from_path(published))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files outside docs/ point to their published copies, and links of such copies to the pages."""
    folder, place = source_folder(page.file.src_uri), (DOCS / page.file.src_uri).parent

    def published(link: re.Match) -> str:
        target = (folder / link["path"]).resolve()
        if not target.is_file() or (target.is_relative_to(DOCS) and folder == place):
            return link[0]
        if not target.is_relative_to(DOCS):
            target = DOCS / ("index.md" if target == README else f"files/{target.relative_to(ROOT)}")
        return link["before"] + os.path.relpath(target, place) + (link["after"] or "")

    return LINK.sub(published, markdown)


def source_folder(src_uri: str) -> Path:
    """The folder from which the links of a page of the site lead; that of its original for a published copy."""
    if src_uri.startswith("files/"):
        return (ROOT / src_uri.removeprefix("files/")).parent
    return (DOCS / src_uri).parent


def moved(markdown: str, old: Path, new: Path) -> str:
    """A page's text as it must be in another folder for its links to lead where they led."""

    def relative(link: re.Match) -> str:
        target = (old / link["path"]).resolve()
        return link["before"] + os.path.relpath(target, new) + (link["after"] or "")

    return LINK.sub(relative, markdown)
