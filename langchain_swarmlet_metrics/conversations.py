"""Which messages of a prompt are new: an agent sends its whole history with each LLM call.

A prompt continues the conversation of its latest message that is surely known: one with an id that has been seen, or
an answer that an LLM call received after the same message as before. What precedes that message is looked for
backwards from there, in order; what follows it is new. So a history may be trimmed or summarized in between, and the
same text twice is two messages. A prompt without such a message starts a conversation, unless it begins as one did
that got no answer.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

_Source: TypeAlias = Literal["sent", "answer", "partial"]


class Mark(NamedTuple):
    """Tell one message from others.

    Args:
        key: hash of what the message says; equal for equal messages.
        id: the message's own id, None when it has none.
        is_system: whether it is a system message, which can stand before any history.
    """

    key: int
    id: str | None = None
    is_system: bool = False


class _Known:
    """A message of a conversation."""

    __slots__ = ("conversation", "mark", "source")

    def __init__(self, mark: Mark, conversation: _Conversation, source: _Source) -> None:
        self.mark = mark
        self.conversation = conversation
        self.source = source


class _Conversation:
    """The messages of a conversation in their order, and its LLM calls that have not ended."""

    __slots__ = ("messages", "number", "open")

    def __init__(self, number: int) -> None:
        self.number = number
        self.messages: list[_Known] = []
        self.open: set[int] = set()

    def unanswered(self, place: int) -> list[_Known]:
        """Return what was sent after a place and got no answer; nothing while that may still come."""
        later = self.messages[place:]
        if self.open or any(known.source == "answer" for known in later):
            return []
        return [known for known in later if known.source == "sent"]


class _Walk:
    """A walk backwards through the messages of a conversation, along a prompt.

    Args:
        messages: of the conversation.
        end: where it begins.
        ids: of the prompt's messages; a message with one of them is found by it, and by nothing else.
        is_named: whether messages keep their ids in this conversation, so that another id is another message.
    """

    def __init__(self, messages: list[_Known], end: int, ids: Collection[str | None], *, is_named: bool) -> None:
        self._messages = messages
        self._reached = self._end = end
        self._ids = ids
        self._is_named = is_named
        self._taken: set[_Known] = set()

    def find(self, mark: Mark) -> _Known | None:
        """Return the nearest message ahead that says the same, or else one that has been passed over."""
        for place in chain(range(self._reached - 1, -1, -1), range(self._reached, self._end)):
            known = self._messages[place]
            if known.mark.key == mark.key and known not in self._taken and self._may_be(mark.id, known.mark.id):
                return known
        return None

    def _may_be(self, new_id: str | None, known_id: str | None) -> bool:
        return known_id is None or (known_id not in self._ids and (new_id is None or not self._is_named))

    def reach(self, known: _Known) -> None:
        """Go on to a message, which is not found again."""
        self._taken.add(known)
        if self._reached and self._messages[self._reached - 1] is known:
            self._reached -= 1
        else:
            self._reached = min(self._reached, self._messages.index(known))

    def insert(self, known: _Known) -> None:
        """Put a new message where the walk has come to."""
        self._messages.insert(self._reached, known)
        self._taken.add(known)
        self._end += 1


class _Call(NamedTuple):
    """An LLM call that has not ended."""

    conversation: _Conversation
    keys: tuple[int, ...]
    last_key: int | None


class Conversations:
    """Keep track of what the LLM calls of one worker have sent and received."""

    def __init__(self) -> None:
        self._count = 0
        self._calls: dict[int, _Call] = {}
        self._by_id: dict[str, _Known] = {}
        self._versions: set[tuple[str, int]] = set()
        self._answers: dict[tuple[int | None, int], _Known] = {}
        self._failed: dict[int, _Conversation] = {}

    def sent(self, call: int, prompt: Sequence[Mark]) -> tuple[int, list[int]]:
        """Note what an LLM call sends.

        Args:
            call: the call's event id.
            prompt: its messages.

        Returns:
            The number of the conversation, from 1 on, and the positions in the prompt of what is new to it.
        """
        keys = tuple(mark.key for mark in prompt)
        at, known = self._latest_known(prompt)
        conversation = known.conversation if known is not None else self._begun_with(keys) or self._begin()
        new = self._merge(conversation, prompt, at, known)
        conversation.open.add(call)
        self._calls[call] = _Call(conversation, keys, _key_before(prompt, len(prompt)))
        return conversation.number, new

    def received(self, call: int, answers: Iterable[Mark], *, failed: bool = False) -> int:
        """Note what an LLM call received, and that it has ended.

        Args:
            call: the call's event id.
            answers: one message, several choices, or none.
            failed: whether it got no answer, or only a part of one.

        Returns:
            The number of the conversation.
        """
        started = self._calls.pop(call, None)
        conversation, keys, last_key = _Call(self._begin(), (), None) if started is None else started
        conversation.open.discard(call)
        for mark in answers:
            known = self._know(mark, conversation, "partial" if failed else "answer")
            conversation.messages.append(known)
            if not failed:
                self._answers[last_key, mark.key] = self._answers[None, mark.key] = known
        if failed:
            self._failed[hash(keys)] = conversation
        return conversation.number

    def _begin(self) -> _Conversation:
        self._count += 1
        return _Conversation(self._count)

    def _begun_with(self, keys: tuple[int, ...]) -> _Conversation | None:
        """Return the conversation that began with these messages and got no answer, if any."""
        for end in range(len(keys) if self._failed else 0, 0, -1):
            conversation = self._failed.get(hash(keys[:end]))
            if conversation is not None and conversation.unanswered(0):
                return conversation
        return None

    def _know(self, mark: Mark, conversation: _Conversation, source: _Source = "sent") -> _Known:
        known = _Known(mark, conversation, source)
        self._name(mark, known)
        return known

    def _name(self, mark: Mark, known: _Known) -> None:
        """Note under which id a message is known from now on."""
        if mark.id is not None:
            self._by_id[mark.id] = known
            self._versions.add((mark.id, mark.key))

    def _latest_known(self, prompt: Sequence[Mark]) -> tuple[int, _Known | None]:
        """Return where the latest message of a prompt is that is surely known, and what is known of it."""
        ids = {mark.id for mark in prompt}
        for at in range(len(prompt) - 1, -1, -1):
            mark = prompt[at]
            if mark.is_system:
                continue
            if (known := self._named(mark)) is not None:
                return at, known
            answer = self._answers.get((_key_before(prompt, at), mark.key))
            if answer is not None and (answer.mark.id is None or answer.mark.id not in ids):
                return at, answer
        return -1, None

    def _named(self, mark: Mark) -> _Known | None:
        """Return the message that is known under a message's id."""
        return None if mark.id is None else self._by_id.get(mark.id)

    def _merge(self, conversation: _Conversation, prompt: Sequence[Mark], at: int, known: _Known | None) -> list[int]:
        """Put what is new where it belongs in the conversation, and return its positions in the prompt."""
        messages = conversation.messages
        place = -1 if known is None else messages.index(known)
        waiting = conversation.unanswered(place + 1)
        new = [] if known is None else self._merge_earlier(conversation, prompt[: at + 1], place)
        for position in range(at + 1, len(prompt)):
            mark = prompt[position]
            if waiting and waiting[0].mark.key == mark.key:
                self._name(mark, waiting.pop(0))
                continue
            waiting = []
            messages.append(self._know(mark, conversation))
            new.append(position)
        return new

    def _merge_earlier(self, conversation: _Conversation, prompt: Sequence[Mark], place: int) -> list[int]:
        """Do so for a prompt up to the message that is at a place of the conversation."""
        ids, is_named = {mark.id for mark in prompt}, self._named(prompt[-1]) is not None
        walk = _Walk(conversation.messages, place + 1, ids, is_named=is_named)
        new = []
        for position in range(len(prompt) - 1, -1, -1):
            mark = prompt[position]
            known = self._named(mark)
            if known is None and (known := walk.find(mark)) is not None:
                self._name(mark, known)
            if known is None:
                walk.insert(self._know(mark, conversation))
            elif known.conversation is conversation:
                walk.reach(known)
            if known is None or self._is_changed(mark):
                new.append(position)
        return new[::-1]

    def _is_changed(self, mark: Mark) -> bool:
        """Tell whether a message that is known by its id says something that it has not said before."""
        if mark.id is None or (mark.id, mark.key) in self._versions:
            return False
        self._versions.add((mark.id, mark.key))
        return True


def _key_before(prompt: Sequence[Mark], at: int) -> int | None:
    """Return the key of the last message before a position, system messages aside; None when there is none."""
    return next((prompt[before].key for before in range(at - 1, -1, -1) if not prompt[before].is_system), None)
