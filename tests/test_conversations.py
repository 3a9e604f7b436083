"""Conversations: every message of every prompt is new exactly once, however the history is cut."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from langchain_swarmlet_metrics.conversations import Conversations, Mark

TEXTS = ["go on", "ok", "no"]
NO_IDS, ANSWERS, ALL = "no ids", "ids of answers", "ids of all"
_numbers = count(1)


class Spoken(NamedTuple):
    """A message as it really is: no two are the same, whatever they say."""

    number: int
    role: str
    text: str
    id: str | None

    @property
    def mark(self) -> Mark:
        """What can be seen of it."""
        return Mark(hash((self.role, self.text)), self.id, self.role == "system")


def speak(role: str, text: str, *, named: bool) -> Spoken:
    """Say something new."""
    number = next(_numbers)
    return Spoken(number, role, text, f"id-{number}" if named else None)


class Agent:
    """An agent that sends some of its history with each call, and who knows which messages have been new."""

    def __init__(self, conversations: Conversations, ids: str, texts: list[str] = TEXTS) -> None:
        self._conversations = conversations
        self._ids = ids
        self._texts = texts
        self._system = speak("system", f"You are agent {next(_numbers)}.", named=False)
        self._summary: list[Spoken] = []
        self._history: list[Spoken] = []
        self._answers: list[int] = []
        self._seen: set[int] = set()
        self.numbers: set[int] = set()
        self.calls = 0

    def step(self, data: st.DataObject, *, may_fail: bool) -> None:
        """Hear something, send a part of the history, and get an answer or none."""
        for text in data.draw(st.lists(st.sampled_from(self._texts), min_size=int(not self.calls), max_size=3)):
            self._history.append(speak("human", text, named=self._ids == ALL))
        self.calls += 1
        self.send(self.view(data), is_answered=not (may_fail and data.draw(st.booleans())), data=data)

    def view(self, data: st.DataObject) -> list[Spoken]:
        """Return the system message, perhaps a summary, and the history from a message on that is old enough."""
        oldest = 0
        if self._answers:
            oldest = data.draw(st.integers(0, self._answers[-1]))
            if data.draw(st.booleans()):
                self._summary = [speak("human", f"Summary {next(_numbers)}", named=self._ids == ALL)]
            if self._summary and self._ids == NO_IDS:  # an answer is known by what is before it
                oldest = min(oldest, self._answers[-1] - 1)
        return [self._system, *self._summary, *self._history[oldest:]]

    def send(self, prompt: list[Spoken], *, is_answered: bool, data: st.DataObject) -> None:
        """Send a prompt: exactly what has not been seen is new."""
        call = next(_numbers)
        number, new = self._conversations.sent(call, [spoken.mark for spoken in prompt])
        self.numbers.add(number)
        assert [prompt[position].number for position in new] == [
            spoken.number for spoken in prompt if spoken.number not in self._seen
        ]
        self._seen |= {spoken.number for spoken in prompt}
        answer = speak("ai", data.draw(st.sampled_from(self._texts)), named=self._ids != NO_IDS)
        answers = [answer] if is_answered else []
        assert self._conversations.received(call, [a.mark for a in answers], failed=not is_answered) == number
        if is_answered:
            self._seen.add(answer.number)
            self._answers.append(len(self._history))
            self._history.append(answer)


@given(st.data(), st.sampled_from([NO_IDS, ANSWERS, ALL]), st.integers(1, 12))
def test_one_agent(data, ids, steps):
    """An agent whose history is trimmed, summarized and shown again, and whose calls fail, says everything once."""
    agent = Agent(Conversations(), ids)
    for _ in range(steps):
        agent.step(data, may_fail=True)
    assert agent.numbers == {1}


@given(st.data(), st.sampled_from([ANSWERS, ALL]), st.integers(2, 4))
def test_several_agents_in_turns(data, ids, how_many):
    """Agents that say the same words in turns are told apart, and each says everything once."""
    conversations = Conversations()
    agents = [Agent(conversations, ids) for _ in range(how_many)]
    for agent in data.draw(st.lists(st.sampled_from(agents), max_size=20)):
        agent.step(data, may_fail=False)
    numbers = [agent.numbers for agent in agents if agent.calls]
    assert all(len(of_one) == 1 for of_one in numbers)
    assert len(set().union(*numbers)) == len(numbers)


def marks(*texts: str, ids: bool = False) -> list[Mark]:
    """Make marks of texts such as ``human: hi``; with ids, equal texts have equal ids."""
    return [Mark(hash(text), f"id of {text}" if ids else None, text.startswith("system")) for text in texts]


def test_independent_calls():
    """The same question asked twice is two conversations, also when the first one is still being answered."""
    conversations = Conversations()
    assert conversations.sent(1, marks("human: hi")) == (1, [0])
    assert conversations.sent(2, marks("human: hi")) == (2, [0])
    assert conversations.received(2, marks("ai: hello")) == 2
    assert conversations.received(1, marks("ai: hello")) == 1
    assert conversations.sent(3, marks("human: hi")) == (3, [0])


def test_examples_before_the_question():
    """Questions that share a system message and examples are conversations of their own, each of them whole."""
    conversations = Conversations()
    examples = ["system: classify", "human: nice", "ai: good"]
    for call in (1, 2, 3):
        assert conversations.sent(call, marks(*examples, f"human: {call}")) == (call, [0, 1, 2, 3])
        conversations.received(call, marks("ai: good"))


def test_retry():
    """A prompt that is sent again after a failure, with or without more, is not new again."""
    conversations = Conversations()
    prompt = ["system: be brief", "human: hi"]
    assert conversations.sent(1, marks(*prompt)) == (1, [0, 1])
    conversations.received(1, [], failed=True)
    assert conversations.sent(2, marks(*prompt)) == (1, [])
    conversations.received(2, marks("ai: hel"), failed=True)
    assert conversations.sent(3, marks(*prompt, "human: please")) == (1, [2])
    conversations.received(3, marks("ai: hello"))
    assert conversations.sent(4, marks(*prompt, "human: please", "ai: hello", "human: hi")) == (1, [4])
    conversations.received(4, [], failed=True)
    assert conversations.sent(5, marks(*prompt, "human: please", "ai: hello", "human: hi")) == (1, [])
    conversations.received(5, marks("ai: hello"))
    assert conversations.sent(6, marks(*prompt)) == (2, [0, 1])


def test_message_that_was_changed():
    """A message that says something else than before is new once, under the same id."""
    conversations = Conversations()
    conversations.sent(1, [Mark(1, "question")])
    conversations.received(1, [Mark(2, "answer")])
    cleared = [Mark(1, "question"), Mark(2, "answer"), Mark(3, "output")]
    assert conversations.sent(2, cleared) == (1, [2])
    conversations.received(2, [Mark(4, "more")])
    cleared = [Mark(1, "question"), Mark(20, "answer"), Mark(30, "output"), Mark(4, "more"), Mark(5, "next")]
    assert conversations.sent(3, cleared) == (1, [1, 2, 4])
    conversations.received(3, [])
    assert conversations.sent(4, cleared) == (1, [])
    assert conversations.sent(5, [Mark(1, "question"), Mark(2, "answer"), Mark(30, "output")]) == (1, [])


def test_new_ids_for_the_same_history():
    """A history that is made of texts for each call, and gets new ids each time, is known by what it says."""
    conversations = Conversations()
    history: list[int] = []
    for call in range(1, 6):
        history.append(call)
        prompt = [Mark(key, f"{call}-{position}") for position, key in enumerate(history)]
        assert conversations.sent(call, prompt) == (1, [len(history) - 1])
        conversations.received(call, [Mark(-call, f"answer {call}")])
        history.append(-call)


def test_same_text_under_another_id():
    """Two messages that say the same and stand in one prompt are two, wherever the second one comes in."""
    conversations = Conversations()
    conversations.sent(1, [Mark(1, "a")])
    conversations.received(1, [Mark(2, "b")])
    assert conversations.sent(2, [Mark(1, "a"), Mark(1, "c"), Mark(2, "b"), Mark(1, "d")]) == (1, [1, 3])


def test_ids_that_last():
    """Where messages keep their ids, another id is another message, whatever it says."""
    conversations = Conversations()
    conversations.sent(1, [Mark(1, "summary 1"), Mark(2, "question")])
    conversations.received(1, [Mark(3, "answer")])
    assert conversations.sent(2, [Mark(1, "summary 2"), Mark(3, "answer"), Mark(2, "question 2")]) == (1, [0, 2])
    again = [Mark(1, "summary 2"), Mark(3, "answer"), Mark(2, "question 2"), Mark(3, "unseen"), Mark(2, "question 3")]
    assert conversations.sent(3, again) == (1, [3, 4])


def test_choices_and_branches():
    """Several answers to one prompt belong to its conversation, and so does what follows any of them."""
    conversations = Conversations()
    conversations.sent(1, marks("human: hi"))
    conversations.received(1, marks("ai: yes", "ai: no"))
    assert conversations.sent(2, marks("human: hi", "ai: yes", "human: why")) == (1, [2])
    assert conversations.sent(3, marks("human: hi", "ai: no", "human: why")) == (1, [2])


def test_parallel_calls_of_one_state():
    """Calls that are made at once with the same messages, known by their ids, are one conversation."""
    conversations = Conversations()
    prompt = marks("system: a", "human: hi", ids=True)
    assert conversations.sent(1, prompt) == (1, [0, 1])
    assert conversations.sent(2, prompt) == (1, [])
    conversations.received(2, marks("ai: two", ids=True))
    conversations.received(1, marks("ai: one", ids=True))
    assert conversations.sent(3, [*prompt, *marks("ai: one", "ai: two", "human: go on", ids=True)]) == (1, [4])


def test_two_speakers_with_one_history():
    """Agents that take turns on one history, each with a system message of its own, say everything once."""
    conversations = Conversations()
    history = marks("human: discuss", ids=True)
    for call in range(1, 9):
        prompt = [*marks("system: " + "ab"[call % 2]), *history]
        expected = {1: [0, 1], 2: [0]}
        assert conversations.sent(call, prompt) == (1, expected.get(call, []))
        answer = marks(f"ai: {call}", ids=True)
        conversations.received(call, answer)
        history += answer


def test_answer_of_a_call_that_was_not_noted():
    """An answer whose prompt was not taken begins a conversation, which goes on from there."""
    conversations = Conversations()
    assert conversations.received(1, marks("ai: hello", ids=True)) == 1
    assert conversations.sent(2, marks("human: hi", "ai: hello", "human: bye", ids=True)) == (1, [0, 2])


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6), max_size=12), st.booleans())
def test_nothing_is_lost(prompts, ids):
    """Whatever is sent, in whatever order: what has not been seen is new."""
    conversations = Conversations()
    seen: set[Mark] = set()
    for call, texts in enumerate(prompts, start=1):
        prompt = marks(*texts, ids=ids)
        _, new = conversations.sent(call, prompt)
        assert {mark for mark in prompt if mark not in seen} <= {prompt[position] for position in new}
        assert new == sorted(set(new))
        seen.update(prompt)
        conversations.received(call, marks(f"answer {call}", ids=ids) if call % 3 else [], failed=not call % 3)
