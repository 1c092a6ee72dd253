"""Every numerical tolerance of the test suite, in one place. Knows no test and no model.

Each name says what is compared; beside its value stands the largest error that was measured when it was set (and
on what), so that a tolerance that has become too generous can be seen. Errors are absolute unless the name says
otherwise. Token ids, lengths and anything copied bit for bit are compared with `==`, never with a tolerance.
"""

EXACT = 0.0
"""Two ways to run the same float operations in the same order (a reload, a bit-for-bit conversion)."""

LOSS_RELATIVE = 1e-6
"""`seq2seq_loss` against the formula in float64, relative (measured: 1.2e-7)."""

LOSS_GRADIENT = 1e-6
"""Gradient of `seq2seq_loss` against softmax minus target (measured: 6e-8)."""

PARITY_LOGITS = 5e-5
"""Logits of tiny random models against torch in float32, |logits| up to 5 (measured: 1.3e-6 on the goldens)."""

PARITY_HIDDEN = 2e-5
"""Hidden states of tiny random models against torch in float32 (measured: 1.6e-6 on the goldens)."""

PARITY_ATTENTION = 5e-6
"""Attention weights of tiny random models against torch in float32 (measured: 4.8e-7 on the goldens)."""

PARITY_ROTATED = 1e-4
"""Rotated queries and keys, up to 4 in size, at positions up to 709, against torch in float32 (measured: 1.9e-5 with
dynamic scaling, whose base is a power taken on the device; 5e-7 otherwise)."""

PARITY_LAYERS = 5e-5
"""Hidden states, up to 45 in size, of one or two layers with large random weights against torch in float32 (measured:
1.6e-5)."""

KERNEL_OUTPUT = 6e-2
"""Attention by a kernel in bfloat16, outputs up to 4 in size, against the reference in bfloat16 (measured by XLA's form
on CPU: 5e-4 with jax 0.10, 3.1e-2 with 0.12, which rounds more; the reference is within 5e-3 of float32, relative, with
both; by cuDNN's kernel not yet)."""

KERNEL_GRADIENT = 1.3e-1
"""The gradients, relative to the largest entry (measured: 6.5e-3 and 6.7e-2, likewise)."""

KERNEL_LOSS = 1e-2
"""The loss of a training step in bfloat16 with and without a kernel, relative (measured: 0, likewise); of the norm of
gradients ten times that (measured: 1.6e-4)."""

SAME_MODEL = 5e-6
"""The same model run two ways: cached or whole, scanned or unrolled, alone or in a batch (measured: 7.2e-7)."""

SAME_GRADIENT = 2e-5
"""Gradients of the same model in two layouts, relative to the largest entry (measured: 0 in unoptimised programs)."""

ORACLE = 2e-6
"""One layer in float32 against its formula in float64 NumPy (measured: 6.3e-7; activations 6e-7 relative)."""

ROTARY_FAR = 2e-4
"""Products of rotated queries and keys, up to 16 in size, with both positions shifted by up to 500 (measured: 5e-5)."""

SEQUENCE_SCORES = 5e-5
"""Sums of some 14 log-probabilities, down to -26, against torch or one full pass, in float32 (measured: 4e-6)."""

TOKEN_LOG_PROBS = 2e-5
"""A token's log-probability, down to -20, against torch in float32 (measured: 3.8e-6)."""

PROCESSED_LOGITS = 3e-7
"""Logits after any rule but a normalisation against torch, relative (measured: 1.2e-7)."""

PROCESSED_LOG_PROBS = 5e-6
"""Logits after chains of rules that may end in a normalisation against torch (measured: 1.9e-6)."""

SAME_STEP = 1e-6
"""Parameters and metrics after one step taken two ways: by hand, whole or in micro-batches (measured: 3e-8)."""

BF16_LOSS = 2e-3
"""Loss computed in bfloat16 against float32, relative (measured: 6e-5)."""

PARITY_LOSS = 5e-6
"""Mean loss of tiny random models against torch in float32 (measured: 4.8e-7)."""

PARITY_GRADIENT = 3e-6
"""Gradients by name against torch in float32, largest 0.5 (measured: 3.6e-7)."""

PARITY_WEIGHTS_AFTER_STEPS = 1e-5
"""Weights after two steps of AdamW at 1e-2 against torch (measured: 2.5e-6)."""

FAMILY_HIDDEN = 6e-5
"""Hidden states of pairs of every family, matrices twice as large, against torch in float32 (measured: 1.5e-5)."""

FAMILY_GRADIENT = 1e-5
"""Gradients of such pairs by name, relative to the tensor's largest entry or 1 if that is smaller, against torch in
float32 (measured: 1.8e-6; torch's own error against float64 is up to 5.2e-6)."""

BF16_RATIO = 1.5
"""Error of such pairs' logits in bfloat16, as a multiple of torch's own in bfloat16 (measured: 0.85 to 1.21)."""

REAL_HIDDEN = 2e-5
"""Hidden states of pretrained models against torch in float32, up to 10.5 in size (measured: 3.6e-6)."""

REAL_LOGITS = 5e-5
"""Logits of pretrained models against torch in float32, up to 5.7 in size (measured: 9.1e-6)."""

FLAN_T5_LOGITS = 5e-4
"""Logits of a Flan-T5-small, up to 87 in size, and its loss, against torch in float32 (measured: 1.1e-4)."""

SMOLLM2_LOGITS = 5e-4
"""Logits of SmolLM2-135M against torch in float32, up to 35 in size, after states of 22,000 (measured: 1.4e-4)."""

PUBLISHED_SCORES = 1e-6
"""Probabilities of a pretrained model that its authors print with six decimals (measured: 4e-7)."""

BEAM_SCORES_RELATIVE = 5e-6
"""Normalised scores of beam search against torch, with processors or without, relative (measured: 1.3e-6)."""

BEAM_WAYS = 1e-5
"""Logits, up to 6.5 in size, by each of the benchmark's ways to move beams, against the usual one
(measured: 1.2e-6)."""

SAME_LOSS_ALONE = 2e-6
"""Relative: the mean loss of an evaluation against the sum over examples alone (measured: 6.8e-8)."""

SCHEDULE_SHARE = 1e-6
"""Learning rates as shares of the highest against transformers' `get_scheduler` (measured: 1.4e-7)."""

MUON_WEIGHTS_AFTER_STEPS = 5e-5
"""Weights after three steps of Muon, which magnifies rounding up to 500 times, against torch (measured: 1.1e-5)."""

SAME_UPDATE = 1e-5
"""Updates of an optimiser, up to 2 in size, in two layouts (measured: 1.4e-6)."""

OPTIMIZER_UPDATE = 1e-6
"""Updates of the same optimiser made in two programs, relative (measured: 0)."""

LORA_MERGED = 5e-6
"""Logits, up to 1.3 in size, and scores with adapters and with the adapters merged (measured: 6.9e-7)."""

REMATERIALISED_LOSS = 1e-6
"""Losses of training steps in every layout and with everything kept or recomputed, relative (measured: 0)."""

BENCHMARK_LOSSES = 1e-6
"""Losses of the benchmark's training steps against torch, relative, up to the fourth step (measured: 1.8e-7)."""

CHUNKED_LOSS = 1e-6
"""The loss taken from hidden states in chunks against whole logits, or float64, relative (measured: 1.1e-7)."""

CHUNKED_GRADIENT = 5e-6
"""Gradients of it, up to 8 in size, against those of whole logits, or in float64 (measured: 8.3e-7)."""

BF16_CHUNKED_GRADIENT = 5e-2
"""Gradients of it in bfloat16, up to 8 in size, against float32 of the same rounded numbers (measured:
1.5e-2)."""

INT8_SCALED = 1e-6
"""Exact sums of integers times two scales and a bias, in float32 against float64, relative to the largest (measured:
1.0e-7)."""

INT8_LOGITS = 0.1
"""Logits of tiny random models in int8 against float32, as a fraction of their standard deviation (measured: 0.038, and
0.052 where the rest is bfloat16)."""

SINGLE_ROW = 20.0
"""One row times a weight, alone and in the dtype, against float64, in epsilons of the dtype (measured: 12, of values up
to 10)."""

CLOSED_GATE = 1e-6
"""Logits, up to 5 in size, of a decoder with closed gates on its cross-attention against the plain one, both compiled;
eager they are equal (measured: 4.8e-7)."""

MERGED_ATTENTION = 2e-6
"""Weights and output of attention over target and source in one softmax against its formula in float64 NumPy (measured:
1.9e-7)."""

STORED_NUMBERS = 1e-8
"""What `encdec-eqx verify` compares with against torch made again, relative and absolute: nine digits are stored
(measured: 5e-10, the last digit)."""

ON_A_MESH = 1e-5
"""Losses, parameters after a step and logits of tiny models on eight devices against one: sums are taken in another
order (measured: 4.8e-7)."""
