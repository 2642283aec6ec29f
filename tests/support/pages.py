"""Pages of HTML as tests look at them, and text that would like to be more than text."""

from __future__ import annotations

from html.parser import HTMLParser

EVIL = "<script>alert('x')</script>\"><img src=x onerror=y> & {{ 7 * 7 }}"


class Tags(HTMLParser):
    """What stands in a page: tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, attribute: str) -> list[str | None]:
        """An attribute of every tag of a kind."""
        return [attributes.get(attribute) for name, attributes in self.found if name == tag]

    def check_harmless(self) -> None:
        """Nothing runs, and nothing is fetched from elsewhere."""
        assert "script" not in {tag for tag, _ in self.found}
        assert not [name for _, attributes in self.found for name in attributes if name.startswith("on")]
        links = [*self.all("a", "href"), *self.all("img", "src"), *self.all("audio", "src")]
        assert not [link for link in links if link is not None and ":" in link]
