"""The option `shares` as YAML: what a person wrote is what is meant, or it is refused.

YAML's own guesses are not made: `010`, `yes` and `12:30:00` are texts, and the fields say what
they can be. What YAML would take silently, such as the second of two equal keys, is refused.
"""

from collections.abc import Iterator

import yaml
from yaml import events

_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})


def read(text: str) -> object:
    """Lists, mappings and texts; None where nothing is written.

    Raises:
        ValueError: it is no YAML, or may mean something else than it seems to; the text says
            where.
    """
    try:
        return _Reader(text).document()
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"is not YAML: {_mistake(error)}") from None
    except yaml.reader.ReaderError:
        raise ValueError("is not YAML: it has a character that YAML does not allow") from None
    except RecursionError:
        raise ValueError("is not YAML: too many brackets") from None


def _mistake(error: yaml.MarkedYAMLError) -> str:
    tab = r"'\t'" in (error.problem or "")
    mark = error.problem_mark or error.context_mark
    what = "a tab, where YAML has spaces," if tab else "a mistake"
    return f"{what} in line {mark.line + 1}" if mark else what


class _Reader:
    """Builds the value from the parser's events."""

    def __init__(self, text: str):
        self._events: Iterator[events.Event] = yaml.parse(text, Loader=yaml.SafeLoader)

    def document(self) -> object:
        """The only document."""
        value: object = None
        documents = 0
        for event in self._events:
            if isinstance(event, events.DocumentStartEvent):
                documents += 1
                value = self._value(next(self._events))
        if documents > 1:
            raise ValueError("has more than one YAML document")
        return value

    def _value(self, event: events.Event) -> object:
        line = _line(event)
        if isinstance(event, events.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(f"has an anchor or an alias (& or *) in line {line}: write it out")
        if getattr(event, "tag", None):
            raise ValueError(f"has a tag (!) in line {line}: leave it out")
        if isinstance(event, events.ScalarEvent):
            return _scalar(event)
        if isinstance(event, events.SequenceStartEvent):
            return self._list()
        return self._mapping()

    def _list(self) -> list[object]:
        found: list[object] = []
        while not isinstance(event := next(self._events), events.SequenceEndEvent):
            found.append(self._value(event))
        return found

    def _mapping(self) -> dict[str, object]:
        found: dict[str, object] = {}
        while not isinstance(event := next(self._events), events.MappingEndEvent):
            line = _line(event)
            key = self._value(event) or ""
            if not isinstance(key, str):
                raise ValueError(f"has a key in line {line} that is no word")  # noqa: TRY004  # a person's mistake
            # Both spellings are one key.
            if key.replace("_", "-") in {each.replace("_", "-") for each in found}:
                raise ValueError(f"has {key!r} twice in one entry, again in line {line}")
            found[key] = self._value(next(self._events))
        return found


def _line(event: events.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _scalar(event: events.ScalarEvent) -> str | None:
    plain = event.style is None
    if plain and event.end_mark and _line(event) != event.end_mark.line + 1:
        raise ValueError(f"has a text in line {_line(event)} that goes on in the next: quote it")
    return None if plain and event.value in _NOTHING else event.value
