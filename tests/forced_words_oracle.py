"""Constrained beam search written out over Python lists, a sentence at a time, on the stand-in decoder.

From the definition in transformers 4.46.3, quirks included; `tests/legacy` compares with that version itself. Knows
nothing of how the library does it.
"""

import numpy as np


class Model:
    """The stand-in's next log-probabilities after a whole sequence; `forbidden` ids have none."""

    def __init__(self, decoder, sentence, forbidden=()):
        self.tokens, self.places, self.head = (
            np.asarray(a, np.float64) for a in (decoder.tokens, decoder.positions, decoder.head)
        )
        self.mean, self.forbidden = sentence.astype(np.float64).mean(0), list(forbidden)

    def __call__(self, row):
        logits = np.sin(self.tokens[list(row)].sum(0) + self.mean + self.places[len(row) - 1]) @ self.head
        shares = logits - np.log(np.exp(logits).sum())
        shares[self.forbidden] = -np.inf
        return shares


class Word:
    """A constraint: alternatives, and what has been seen of one of them."""

    def __init__(self, alternatives, seen=None):
        self.alternatives = [tuple(phrase) for phrase in alternatives]
        self.height = max(map(len, self.alternatives))
        self.seen = [] if seen is None else seen

    def next_ones(self):
        behind = [phrase for phrase in self.alternatives if phrase[: len(self.seen)] == tuple(self.seen)]
        return list(dict.fromkeys(phrase[len(self.seen)] for phrase in behind if len(phrase) > len(self.seen)))


class Words:
    """What waits, what is begun, how many are complete."""

    def __init__(self, items):
        self.waiting, self.begun, self.complete = [Word(item) for item in items], None, 0
        self.count, self.longest = len(items), max(word.height for word in self.waiting)

    def copy(self):
        """As 4.46.3 copies: the list of what has been seen of a choice that is begun is the same list."""
        other = Words.__new__(Words)
        other.__dict__.update(self.__dict__)
        other.waiting = [Word(word.alternatives) for word in self.waiting]
        if self.begun is not None:
            several = len(self.begun.alternatives) > 1
            other.begun = Word(self.begun.alternatives, self.begun.seen if several else list(self.begun.seen))
        return other

    def add(self, token):
        if self.begun is None:
            found = next((word for word in self.waiting if token in word.next_ones()), None)
            if found is None:
                return
            self.waiting = [word for word in self.waiting if word is not found]
            self.begun = found
        if token not in self.begun.next_ones():
            self.waiting.append(Word(self.begun.alternatives))
            self.begun = None
            return
        self.begun.seen.append(token)
        if not self.begun.next_ones():
            self.begun, self.complete = None, self.complete + 1

    def read(self, tokens):
        for token in tokens:
            self.add(token)
        return self

    def offered(self):
        return [token for word in ([self.begun] if self.begun else self.waiting) for token in word.next_ones()]

    @property
    def satisfied(self):
        return self.complete == self.count

    @property
    def bank(self):
        partly = 0 if self.begun is None else self.longest - self.begun.height + len(self.begun.seen)
        return self.complete * self.longest + partly


def search(model, prompt, items, *, beams, new, ends, penalty=1.0, early=False, returned=1):
    """The best hypotheses as (score, tokens, parents), and whether they were met."""
    running = [(0.0 if at == 0 else -1e9, tuple(prompt), ()) for at in range(beams)]
    pool, done = [], False
    for length in range(1, new + 1):
        table = [(model(row) + score).astype(np.float32) for score, row, _ in running]
        found = [
            (s, (*running[at][1], t), (*running[at][2], at)) for at in range(beams) for t, s in enumerate(table[at])
        ]
        found.sort(key=lambda one: -one[0])
        closing = [one for one in found[:beams] if one[1][-1] in ends and Words(items).read(one[1][:-1]).satisfied]
        _enter(pool, closing, length, penalty, beams)
        best = [one for one in found if one[1][-1] not in ends][:beams]
        states = [Words(items).read(row) for _, row, _ in best]
        new_ones = []
        for at, (_, row, parents) in enumerate(running):
            state = Words(items).read(row)
            for token in state.offered():
                after = state.copy()
                after.add(token)
                if (*row, token) not in [one[1] for one in best + new_ones]:
                    new_ones.append((table[at][token], (*row, token), (*parents, at)))
                    states.append(after)
        if new_ones:
            best = _in_turn(best + new_ones, states)[:beams]
        running = best
        hoped = new if early == "never" and penalty > 0 else length
        full = len(pool) == beams
        done = full and (early is True or min(one[0] for one in pool) >= found[0][0] / hoped**penalty)
        if done:
            break
    if not done:
        met = [one for one in running if Words(items).read(one[1]).satisfied]
        others = [one for one in running if one not in met] if len(met) < returned else []
        _enter(pool, met + others, new, penalty, beams)
    return sorted(pool, key=lambda one: one[0])[::-1][:returned]


def _enter(pool, hypotheses, length, penalty, beams):
    for score, row, parents in hypotheses:
        pool.append((float(score) / length**penalty, row, parents))
        if len(pool) > beams:
            del pool[min(range(len(pool)), key=lambda at: pool[at][0])]


def _in_turn(ones, states):
    banks = [state.bank for state in states]
    ranks = np.asarray([np.float32(100 * bank) + score for bank, (score, _, _) in zip(banks, ones, strict=True)])
    order = np.argsort(-ranks, kind="stable")
    turns, turn, before = [], 0, None
    for at in order:
        turn = turn + 1 if banks[at] == before else 0
        before = banks[at]
        turns.append(turn)
    return [ones[order[at]] for at in np.argsort(turns, kind="stable")]
