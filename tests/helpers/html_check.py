"""Reads a page of HTML strictly: what is not closed, doubled or dangling is an error."""

from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """`text`: of each id, all text below it; `tables`: rows of cells; `images`: attributes."""

    def __init__(self, source: str):
        super().__init__()
        self.open, self.ids, self.links, self.images = [], [], [], []
        self.tables, self.text, self.tags = [], {}, set()
        self._inside = []
        self.feed(source)
        self.close()
        assert self.open == [], f"not closed: {self.open}"
        assert len(set(self.ids)) == len(self.ids), "an id twice"

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.add(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in _VOID:
            self.open.append(tag)
            self._inside.append(values.get("id"))
        for name in ("src", "href"):
            assert values.get(name, "#").startswith(("#", "data:")), f"{name}={values[name]}"

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> where {self.open[-1:]} is open"
        self.open.pop()
        self._inside.pop()

    def handle_data(self, data):
        for anchor in filter(None, self._inside):
            self.text[anchor] = self.text.get(anchor, "") + data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def table_with(self, *heads: str) -> list[list[str]]:
        """The rows below a head that begins with these cells."""
        [found] = [rows[1:] for rows in self.tables if tuple(rows[0][: len(heads)]) == heads]
        return found
