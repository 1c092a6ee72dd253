"""The loss and the shifted inputs, against formulas written out in NumPy. No model here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tolerances
from encdec_eqx.training.loss import seq2seq_loss, shift_tokens_right

LABELS = np.array([[3, 1, 4, -100], [5, -100, 2, 6]])


def _logits(shape=(2, 4, 7), seed=0, scale=3.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def _by_hand(logits, labels, smoothing=0.0, z_loss=0.0):
    """Cross-entropy with the target distribution written out, in float64."""
    total, weight = 0.0, 0
    logits = np.asarray(logits, np.float64)
    for row, label in zip(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), strict=True):
        if label == -100:
            continue
        log_z = np.log(np.exp(row).sum())
        target = np.full(row.shape, smoothing / row.size)
        target[label] += 1 - smoothing
        total += -(target * (row - log_z)).sum() + z_loss * log_z**2
        weight += 1
    return total, weight


def test_inputs_are_the_labels_moved_right():
    got = shift_tokens_right(LABELS, 0, 9)
    assert got.tolist() == [[9, 3, 1, 4], [9, 5, 0, 2]]
    assert got.dtype == jnp.int32


def test_one_column_of_labels_leaves_only_the_start():
    assert shift_tokens_right(LABELS[:, :1], 0, 9).tolist() == [[9], [9]]


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, np.uint8])
def test_narrow_and_wide_integers_are_labels(dtype):
    labels = np.array([[1, 2]]).astype(dtype)
    assert shift_tokens_right(labels, 0, 50256).tolist() == [[50256, 1]]
    assert seq2seq_loss(_logits((1, 2, 7)), labels)[1] == 2


def test_shift_works_under_jit_as_outside():
    shifted = jax.jit(shift_tokens_right, static_argnums=(1, 2))(jnp.asarray(LABELS), 0, 9)
    assert shifted.tolist() == shift_tokens_right(LABELS, 0, 9).tolist()


@pytest.mark.parametrize(
    ("pad", "start", "named"),
    [(None, 1, "eos_token_id"), (0, None, "bos_token_id"), (-1, 1, "pad_token_id"), (0, -9, "decoder_start_token_id")],
)
def test_missing_or_negative_ids_are_errors_that_name_the_cure(pad, start, named):
    with pytest.raises(ValueError, match=named):
        shift_tokens_right(LABELS, pad, start)


@pytest.mark.parametrize("labels", [LABELS.astype(np.float32), LABELS[0], LABELS[None]])
def test_labels_of_a_wrong_kind_are_type_errors(labels):
    with pytest.raises(TypeError, match="labels"):
        shift_tokens_right(labels, 0, 1)
    with pytest.raises(TypeError, match="labels"):
        seq2seq_loss(_logits(), labels)


def test_logits_must_fit_the_labels():
    with pytest.raises(TypeError, match="labels"):
        seq2seq_loss(_logits((2, 5, 7)), LABELS)
    with pytest.raises(TypeError, match="logits"):
        seq2seq_loss(jnp.zeros((2, 4, 7), jnp.int32), LABELS)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_loss_is_the_formula(smoothing, z_loss):
    total, weight = seq2seq_loss(_logits(), LABELS, label_smoothing=smoothing, z_loss=z_loss)
    expected, number = _by_hand(_logits(), LABELS, smoothing, z_loss)
    assert weight == number == 6
    np.testing.assert_allclose(total, expected, rtol=tolerances.LOSS_RELATIVE)
    assert total.dtype == weight.dtype == jnp.float32


def test_loss_survives_huge_logits():
    total, _ = seq2seq_loss(1e4 * _logits(), LABELS)
    assert np.isfinite(total)


def test_gradient_is_softmax_minus_target():
    grads = jax.grad(lambda x: seq2seq_loss(x, LABELS, label_smoothing=0.2)[0])(_logits())
    target = 0.8 * jax.nn.one_hot(jnp.asarray(LABELS), 7) + 0.2 / 7
    expected = jnp.where(jnp.asarray(LABELS)[..., None] == -100, 0.0, jax.nn.softmax(_logits()) - target)
    np.testing.assert_allclose(grads, expected, atol=tolerances.LOSS_GRADIENT)


def test_nothing_but_ignored_labels_is_zero_with_zero_gradients():
    ignored = np.full_like(LABELS, -100)
    (total, weight), grads = jax.value_and_grad(
        lambda x: seq2seq_loss(x, ignored, label_smoothing=0.1, z_loss=1e-3), has_aux=True
    )(_logits())
    assert total == 0
    assert weight == 0
    assert not grads.any()


def test_bfloat16_logits_are_summed_in_float32():
    logits = _logits((4, 50, 300)).astype(jnp.bfloat16)
    labels = np.asarray(jax.random.randint(jax.random.key(1), (4, 50), 0, 300))
    total, _ = seq2seq_loss(logits, labels)
    np.testing.assert_allclose(total, _by_hand(logits, labels)[0], rtol=tolerances.LOSS_RELATIVE)


@pytest.mark.parametrize("label", [7, -1, -99])
def test_a_label_outside_the_vocabulary_is_an_error_or_nan(label):
    labels = LABELS.copy()
    labels[1, 2] = label
    with pytest.raises(ValueError, match=rf"{label} at row 1, position 2"):
        seq2seq_loss(_logits(), labels)
    total, _ = jax.jit(seq2seq_loss)(_logits(), jnp.asarray(labels))
    assert np.isnan(total), "values cannot be seen under jit: the sum must be NaN, never a plausible number"


@pytest.mark.parametrize("options", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"z_loss": -1.0}])
def test_options_out_of_range_are_errors(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        seq2seq_loss(_logits(), LABELS, **options)


def test_no_second_array_of_the_vocabularys_size():
    """The backward pass holds the logits' gradient and nothing else that large (a one-hot would be another)."""
    shape = (4, 64, 5000)
    labels = jnp.zeros(shape[:2], jnp.int32)
    grad = jax.jit(jax.grad(lambda x: seq2seq_loss(x, labels, label_smoothing=0.1, z_loss=1e-4)[0]))
    compiled = grad.lower(jax.ShapeDtypeStruct(shape, jnp.float32)).compile()
    logits_bytes = 4 * np.prod(shape)
    assert compiled.memory_analysis().temp_size_in_bytes < 1.2 * logits_bytes
