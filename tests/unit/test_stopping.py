"""Stop strings never leak a character."""

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.stopping import StopStrings

SMALL = st.text(alphabet="abc", max_size=30)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=3)


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """What should be shown: everything before the first stop string to be completed."""
    for end in range(len(text) + 1):
        found = [text[:end].find(stop) for stop in stops if stop in text[:end]]
        if found:
            return text[: min(found)], True
    return text, False


@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=1), max_size=30), STOPS)
def test_one_character_at_a_time(pieces: list[str], stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = ""
    stopped = False
    for piece in pieces:
        text, stopped = matcher.push(piece)
        shown += text
        assert cut(shown, stops) == (shown, False), "a stop string leaked"
        if stopped:
            break
    if not stopped:
        shown += matcher.flush()
    assert (shown, stopped) == cut("".join(pieces), stops)


@given(st.lists(SMALL, max_size=8), STOPS)
def test_whatever_the_pieces_no_stop_string_is_shown(pieces: list[str], stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        shown += text
        if stopped:
            break
    else:
        shown += matcher.flush()
    assert not any(stop in shown for stop in stops)
    assert "".join(pieces).startswith(shown)


def test_nothing_is_held_back_without_need() -> None:
    matcher = StopStrings(["\nUser:"])
    assert matcher.push("Hello\n") == ("Hello", False)
    assert matcher.push("Us") == ("", False)
    assert matcher.push("ually") == ("\nUsually", False)
