"""The server: results are those of the model alone whatever they share a batch with, and nothing is compiled."""

import concurrent.futures
import dataclasses
import itertools
import json
import re

import jax
import numpy as np
import pytest
from running_server import NAMES, NEW, SETTINGS, WORDS, Running, running, speaker

from encdec_eqx import GenerationConfig
from encdec_eqx.alignment import align
from encdec_eqx.serve import ServerSettings, make_app
from encdec_eqx.text import TextToText
from tolerances import SAME_MODEL, SEQUENCE_SCORES

WAYS = [
    {},
    {"max_new_tokens": 5},
    {"num_beams": 4},
    {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5},
    {"do_sample": True, "seed": 3},
    {"do_sample": True, "seed": 4},
    {"do_sample": True, "seed": 2**31 + 5, "temperature": 3.0, "top_k": 20},
    {"do_sample": True, "seed": 5, "top_p": 0.9},
    {"constraint": "names"},
    {"constraint": "names", "num_beams": 4, "num_return_sequences": 2},
    {"constraint": "names", "do_sample": True, "seed": 6, "temperature": 2.5},
]


@pytest.fixture(scope="module")
def alone() -> TextToText:
    return speaker()


@pytest.fixture(scope="module")
def served(alone):
    with running(alone) as server:
        yield server


def _alone(alone: TextToText, texts, parameters):
    options = {"max_new_tokens": NEW, **parameters}
    seed, name = options.pop("seed", None), options.pop("constraint", None)
    key = None if seed is None else jax.random.key(seed)
    return alone.generate(texts, key=key, constraint=NAMES if name else None, **options)


def _check(outputs, expected):
    assert [[one["generated_text"] for one in each] for each in outputs] == expected.texts
    for each, scores, unfinished in zip(outputs, expected.scores, expected.unfinished, strict=True):
        found = [-np.inf if one["score"] is None else one["score"] for one in each]
        np.testing.assert_allclose(found, scores, atol=SEQUENCE_SCORES, rtol=SEQUENCE_SCORES)
        assert [one["finish_reason"] == "length" for one in each] == unfinished.tolist()


def test_a_mixed_load_gets_what_each_gets_alone_and_nothing_is_compiled(served: Running, alone):
    """Requests of several inputs and of every kind, at once: they share batches, and no token changes."""
    requests = [
        (WORDS[at : at + 1 + at % 3] if at % 2 else WORDS[at], way)
        for way, at in itertools.product(WAYS, range(len(WORDS)))
    ]
    before = served.metric("encdec_eqx_batch_rows_count")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda one: served.post(inputs=one[0], parameters=one[1]), requests))
    assert [reply.status_code for reply in replies] == [200] * len(requests)
    # before anything is compiled in this process to compare with
    assert served.metric("encdec_eqx_compilations_since_warmup") == 0
    assert served.metric("encdec_eqx_batch_rows_count") - before < len(requests)
    for (inputs, way), reply in zip(requests, replies, strict=True):
        texts = [inputs] if isinstance(inputs, str) else inputs
        answer = reply.json()
        _check(answer["outputs"], _alone(alone, texts, way))
        assert answer.get("seed") == way.get("seed")
    assert len({reply.text for reply in replies}) > len(requests) // 3, "the model says the same of everything"


@pytest.mark.parametrize("way", [{}, {"do_sample": True, "seed": 9, "temperature": 2.0}, {"constraint": "names"}])
def test_a_stream_brings_the_tokens_one_by_one_and_ends_with_the_reply(served: Running, way):
    *tokens, (last, reply) = served.events(inputs=WORDS[0], parameters=way)
    assert reply == served.post(inputs=WORDS[0], parameters=way).json()
    assert last == "done"
    assert {name for name, _ in tokens} == {"token"}
    [[output]] = reply["outputs"]
    assert [data["token"] for _, data in tokens] == output["tokens"]
    assert tokens
    assert tokens[-1][1]["text"] == output["generated_text"]


def test_a_seed_that_nobody_gave_is_told_and_repeats_the_draw(served: Running):
    first = served.post(inputs=WORDS[0], parameters={"do_sample": True}).json()
    assert served.post(inputs=WORDS[0], parameters={"do_sample": True, "seed": first["seed"]}).json() == first


@pytest.mark.parametrize(
    "parameters",
    [
        {"temprature": 1.0},
        {"temperature": 0.5},
        {"do_sample": True, "temperature": 0},
        {"do_sample": True, "top_p": 2},
        {"num_beams": 4, "num_return_sequences": 5},
        {"num_beams": 0},
        {"num_beams": "4"},
        {"max_new_tokens": 0},
        {"max_new_tokens": None, "max_length": 1},
        {"max_new_tokens": 4, "max_length": 4},
        {"length_penalty": 0.5},
        {"guidance_scale": 2.0},
        {"top_k": [1]},
        {"do_sample": "yes"},
    ],
    ids=str,
)
def test_errors_have_the_words_of_python(served: Running, alone, parameters):
    options = {"max_new_tokens": NEW, **parameters}
    if parameters.get("max_length") is not None and options["max_new_tokens"] is None:
        del options["max_new_tokens"]
    with pytest.raises((TypeError, ValueError, NotImplementedError)) as error:
        alone.generate([WORDS[0]], key=jax.random.key(0), **options)
    reply = served.post(inputs=WORDS[0], parameters=parameters)
    assert reply.status_code == 400
    assert reply.json() == {"error": {"type": type(error.value).__name__, "message": str(error.value)}}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "lacks inputs"),
        ({"inputs": 3}, 400, "a text or a list"),
        ({"inputs": []}, 400, "no texts were given"),
        ({"inputs": ["a", 3]}, 400, "text 1 is int 3"),
        ({"inputs": "\ud800"}, 400, "surrogate"),
        ({"inputs": "a", "paramters": {}}, 400, "no field 'paramters'"),
        ({"inputs": "a", "parameters": []}, 400, "must be an object"),
        ({"inputs": "a", "stream": "yes"}, 400, "true or false"),
        ({"inputs": ["a", "b"], "stream": True}, 400, "one input, got 2"),
        ({"inputs": "a", "parameters": {"num_beams": 4}, "stream": True}, 400, "does not stream"),
        ({"inputs": "a", "parameters": {"num_beams": 3}}, 400, "no program compiled for {.*num_beams.*: 3}.*--search"),
        ({"inputs": "a", "parameters": {"repetition_penalty": 1.5}}, 400, "no program compiled"),
        ({"inputs": "a", "parameters": {"do_sample": True, "num_return_sequences": 2}}, 400, "no program compiled"),
        ({"inputs": "a", "parameters": {"constraint": "nmes"}}, 400, "no constraint 'nmes': it has 'names'"),
        ({"inputs": "a", "parameters": {"constraint": {"a": 1}}}, 400, "no constraint"),
        ({"inputs": "a", "parameters": {"do_sample": True, "seed": -1}}, 400, "seed must be at least 0"),
        ({"inputs": "a", "parameters": {"logits_processor": "x"}}, 400, "cannot be given in a request"),
        ({"inputs": "a", "parameters": {"tgt_lang": "de"}}, 400, "language"),
        ({"inputs": "a", "parameters": {"constraint": "names", "max_new_tokens": 1}}, 400, "Raise max_new_tokens"),
        ({"inputs": "a", "parameters": {"max_new_tokens": NEW + 1}}, 413, f"at most {NEW}"),
        ({"inputs": "cat " * 30}, 413, "input 0 is 32 tokens long; at most 16"),
        ({"inputs": ["a"] * 33}, 413, "33 inputs"),
        ({"inputs": "a" * 300_000}, 413, "262,144 bytes"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_refused_says_why(served: Running, body, status, words):
    reply = served.client.post("/generate", content=_json(body))
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error.keys() == {"type", "message"}
    assert re.search(words, error["message"], re.DOTALL), error["message"]


def _json(body) -> bytes:
    return json.dumps(body).encode()


def test_what_a_server_offers_is_told(served: Running):
    info = served.client.get("/info").json()
    assert (info["model"], info["encoder"], info["decoder"]) == ("tiny", "bert", "gpt2")
    searches = {search["name"]: search for search in info["searches"]}
    assert searches["greedy"]["parameters"] == {}
    assert searches["greedy"]["adjustable"] == ["max_new_tokens"]
    assert searches["sampling"]["parameters"] == {"do_sample": True}
    assert searches["sampling"]["adjustable"] == ["max_new_tokens", "seed", "temperature", "top_k", "top_p"]
    assert searches["beams"]["parameters"] == {"num_beams": 4}
    assert {"num_return_sequences", "length_penalty"} <= set(searches["beams"]["adjustable"])
    assert [search["streams"] for search in searches.values()] == [True, True, False]
    assert info["constraints"] == ["names"]
    assert info["limits"]["max_source_tokens"] == 16
    assert info["limits"]["max_new_tokens"] == info["defaults"]["max_new_tokens"] == NEW


def test_health_page_and_what_is_not_there(served: Running):
    assert served.client.get("/health").json() == {"status": "ok"}
    page = served.client.get("/")
    assert "<title>" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert served.client.get("/static/style.css").status_code == 200
    for path, status, kind in (("/nothing", 404, "NotFound"), ("/static/no.js", 404, "NotFound")):
        reply = served.client.get(path)
        assert (reply.status_code, reply.json()["error"]["type"]) == (status, kind)
    reply = served.client.get("/generate")
    assert (reply.status_code, reply.json()["error"]["type"]) == (405, "MethodNotAllowed")
    assert reply.headers["allow"] == "POST"


def test_requests_are_counted_by_status(served: Running):
    name = 'encdec_eqx_requests_total{path="/generate",status="%d"}'
    served.post(inputs="a")
    served.post(inputs=1)
    before = served.metric(name % 200), served.metric(name % 400), served.metric("encdec_eqx_generated_tokens_total")
    served.post(inputs=["a", "b"])
    served.post(inputs=1)
    assert (served.metric(name % 200), served.metric(name % 400)) == (before[0] + 1, before[1] + 1)
    assert served.metric("encdec_eqx_generated_tokens_total") > before[2]
    assert served.metric("encdec_eqx_warmup_seconds") > 0
    assert served.metric("encdec_eqx_queue_rows") == 0


@pytest.mark.parametrize("chosen", [{}, {"layer": 0}, {"layer": 0, "head": 2}], ids=str)
def test_an_alignment_is_that_of_the_model(served: Running, alone, chosen):
    source, target = WORDS[0], WORDS[2]
    reply = served.post("/alignment", source=source, target=target, **chosen).json()
    expected = align(alone, source, target)
    assert reply["source_tokens"] == list(expected.source_tokens)
    assert reply["target_tokens"] == list(expected.target_tokens)
    assert (reply["layers"], reply["heads"]) == (1, 3)
    np.testing.assert_allclose(reply["weights"], expected.weights(**chosen), atol=SAME_MODEL)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"source": "a"}, 400, "target must be a text"),
        ({"source": "a", "target": "a", "layer": 1}, 400, "layer must be at most 0"),
        ({"source": "a", "target": "a", "head": "x"}, 400, "head"),
        ({"source": "a", "target": "a", "heads": 1}, 400, "no field 'heads'"),
        ({"source": "a", "target": "cat " * 30}, 413, "the target is"),
        ({"source": "cat " * 30, "target": "a"}, 413, "tokens long"),
    ],
)
def test_alignments_that_are_refused(served: Running, body, status, words):
    reply = served.post("/alignment", **body)
    assert reply.status_code == status
    assert words in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"batch_sizes": ()}, ValueError, "batch_sizes is empty"),
        ({"batch_sizes": (0,)}, ValueError, "at least 1"),
        ({"max_queue": "many"}, TypeError, "max_queue"),
        ({"timeout": -1}, ValueError, "timeout must be seconds"),
        ({"source_lengths": (64,)}, ValueError, "reads at most 24"),
        ({"max_new_tokens": 4000}, ValueError, "max_new_tokens is 4000, but the decoder has positions for"),
        ({"searches": {}}, ValueError, "searches is empty"),
        ({"searches": {"wide": {"num_beams": 4, "num_return_sequences": 9}}}, ValueError, "search 'wide'.*more than"),
        ({"searches": {"odd": {"numbeams": 4}}}, TypeError, "search 'odd': generate takes no option"),
        ({"searches": {"odd": {"max_new_tokens": 4}}}, ValueError, "which a request chooses"),
        ({"searches": {"odd": {"encoder_repetition_penalty": 2.0}}}, ValueError, "counts the padding"),
        ({"constraints": {"names": "a|b"}}, TypeError, "must be a constraint"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_compiled(alone, changes, error, words):
    settings = {"batch_sizes": (1,), "source_lengths": (16,), "max_new_tokens": NEW, **changes}
    with pytest.raises(error, match=words):
        make_app(alone, ServerSettings(**settings))


def test_a_model_with_beams_of_its_own_offers_them_as_the_default(alone):
    own = GenerationConfig(num_beams=2, length_penalty=0.3, max_new_tokens=7)
    other = TextToText(dataclasses.replace(alone.model, generation_config=own), alone.tokenizers)
    offer = make_app(other, SETTINGS).state.server.offer
    assert offer.searches["default"] == {}
    assert offer.searches["greedy"] == {"num_beams": 1}
    assert offer.info()["defaults"] == {"max_new_tokens": 7}
