"""RecurrentRefinedAttention against plain loops in float64, and against nn.LSTM."""

import copy
import math
import warnings

import pytest
import torch
from einops import einsum
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, prune

from recurrent_attention import RecurrentRefinedAttention


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def looped(attention, vectors):
    """The paper's formulas for one sample, in Python floats; vectors: T lists of c numbers."""
    inputs = [list(vector) for vector in vectors]
    size = attention.hidden_size
    for cell in attention.cells:
        w_ih, w_hh = cell.weight_ih.tolist(), cell.weight_hh.tolist()
        b_ih, b_hh = cell.bias_ih.tolist(), cell.bias_hh.tolist()
        hidden, memory = [0.0] * size, [0.0] * size
        outputs = []
        for vector in inputs:
            gates = []
            for row in range(4 * size):
                total = b_ih[row] + b_hh[row]
                for weight, value in zip(w_ih[row], vector, strict=True):
                    total += weight * value
                for weight, value in zip(w_hh[row], hidden, strict=True):
                    total += weight * value
                gates.append(total)
            hidden, memory = list(hidden), list(memory)
            for unit in range(size):
                write, forget = sigmoid(gates[unit]), sigmoid(gates[size + unit])
                candidate, read = math.tanh(gates[2 * size + unit]), sigmoid(gates[3 * size + unit])
                memory[unit] = forget * memory[unit] + write * candidate
                hidden[unit] = read * math.tanh(memory[unit])
            outputs.append(hidden)
        inputs = outputs
    weight, bias = attention.scorer.weight[0].tolist(), attention.scorer.bias.item()
    scores = [sum(w * s for w, s in zip(weight, state, strict=True)) + bias for state in inputs]
    largest = max(scores)
    powers = [math.exp(score - largest) for score in scores]
    alphas = [power / sum(powers) for power in powers]
    pooled = [
        sum(alpha * state[unit] for alpha, state in zip(alphas, inputs, strict=True))
        for unit in range(size)
    ]
    return pooled, inputs, alphas


def make(channels=5, hidden=4, **kwargs):
    torch.manual_seed(0)
    attention = RecurrentRefinedAttention(channels, hidden, **kwargs).double()
    for parameter in attention.parameters():  # away from the small initial values
        nn.init.normal_(parameter, std=0.7)
    return attention


def assert_equals_loops(attention, features, vectors_of):
    found = attention(features)
    for sample in range(len(features)):
        pooled, states, weights = looped(attention, vectors_of(features[sample]))
        for got, wanted in (
            (found.pooled[sample], pooled),
            (found.states[sample], states),
            (found.weights[sample], weights),
        ):
            torch.testing.assert_close(
                got, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-10
            )


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_map_equals_the_formulas(layers):
    attention = make(num_steps=6, num_layers=layers)
    features = torch.randn(3, 5, 3, 2, dtype=torch.float64)

    def pooled_repeated(sample):
        mean = [sum(channel.flatten().tolist()) / 6 for channel in sample]
        return [mean] * 6

    assert_equals_loops(attention, features, pooled_repeated)


def test_pooled_vector_equals_the_formulas():
    attention = make(num_steps=4)
    features = torch.randn(2, 5, dtype=torch.float64)
    assert_equals_loops(attention, features, lambda sample: [sample.tolist()] * 4)


@pytest.mark.parametrize("steps", [1, 7])
def test_one_vector_per_step_equals_the_formulas_and_brings_its_own_steps(steps):
    attention = make(num_steps=4)
    features = torch.randn(2, steps, 5, dtype=torch.float64)
    assert_equals_loops(attention, features, lambda sample: sample.tolist())


@pytest.mark.parametrize("layers", [1, 2])
def test_equals_torch_lstm_in_float32(layers):
    torch.manual_seed(1)
    lstm = nn.LSTM(48, 64, layers, batch_first=True)
    attention = RecurrentRefinedAttention.from_lstm(lstm, num_steps=10)
    features = torch.randn(8, 48)
    wanted, _ = lstm(features[:, None].expand(-1, 10, -1))
    torch.testing.assert_close(attention(features).states, wanted, rtol=0, atol=1e-6)
    again, _ = attention.to_lstm()(features[:, None].expand(-1, 10, -1))
    assert torch.equal(again, wanted)


def test_gradients_equal_those_of_torch_lstm():
    torch.manual_seed(1)
    lstm = nn.LSTM(6, 5, 2, batch_first=True).double()
    attention = RecurrentRefinedAttention.from_lstm(lstm, num_steps=4)
    ours = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    attention(ours).states.square().sum().backward()
    lstm(theirs[:, None].expand(-1, 4, -1))[0].square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-10)
    for layer, cell in enumerate(attention.cells):
        for name, parameter in cell.named_parameters():
            wanted = getattr(lstm, f"{name}_l{layer}").grad
            torch.testing.assert_close(parameter.grad, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_conversion_keeps_mode_dtype_and_shares_nothing(training):
    lstm = nn.LSTM(3, 4, 1, batch_first=True).double().train(training)
    attention = RecurrentRefinedAttention.from_lstm(lstm)
    assert attention.training is training
    assert attention.scorer.weight.dtype == torch.float64
    with torch.no_grad():
        attention.cells[0].weight_ih.zero_()
    assert lstm.weight_ih_l0.abs().sum() > 0


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 4),
    steps=st.integers(1, 6),
    layers=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_weights_are_a_distribution_and_pooled_lies_among_the_states(batch, steps, layers, seed):
    torch.manual_seed(seed)
    attention = RecurrentRefinedAttention(3, 4, num_steps=steps, num_layers=layers)
    found = attention(100 * torch.randn(batch, 3))
    assert found.weights.shape == (batch, steps)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(batch))
    assert (found.weights > 0).all()
    low, high = found.states.amin(1), found.states.amax(1)
    assert ((found.pooled >= low - 1e-6) & (found.pooled <= high + 1e-6)).all()


@pytest.mark.parametrize("steps", [1, 3])
def test_every_parameter_gets_a_gradient(steps):
    attention = RecurrentRefinedAttention(3, 4, num_steps=steps)
    attention(torch.randn(2, 3)).pooled.sum().backward()
    assert [name for name, p in attention.named_parameters() if p.grad is None] == []


def in_double(attention):
    """The same numbers in float64, where every gradient goes through the unrolled cells."""
    return copy.deepcopy(attention).double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 3, 40])
@pytest.mark.parametrize("shape", [(), (7,)])
def test_both_ways_to_compute_agree(training, batch, shape):
    torch.manual_seed(2)
    attention = RecurrentRefinedAttention(24, 32, num_steps=5).train(training)
    features = torch.randn(batch, *shape, 24)
    with torch.no_grad():
        found, wanted = attention(features), in_double(attention)(features.double())
    for got, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(), (7,)])
def test_gradients_of_both_ways_agree_and_so_do_theirs(training, shape):
    torch.manual_seed(2)
    attention = RecurrentRefinedAttention(24, 32, num_steps=5).train(training)

    def gradients(module, features):
        features.requires_grad_()
        loss = module(features).pooled.sin().sum()
        ours = [features, *module.cells.parameters()]
        first = torch.autograd.grad(loss, ours, create_graph=True)
        return *first, *torch.autograd.grad(first[0].square().sum(), ours)

    features = torch.randn(6, *shape, 24)
    found = gradients(attention, features.clone())
    wanted = gradients(in_double(attention), features.double())
    for got, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_transforms_of_functions_work_in_float32(training):
    torch.manual_seed(2)
    attention = RecurrentRefinedAttention(3, 4, num_steps=5).train(training).requires_grad_(False)
    features, tangents = torch.randn(2, 6, 3)

    def pooled(x):
        return attention(x).pooled

    wanted = in_double(attention)(features.double()).pooled
    halves = torch.func.vmap(pooled)(features.unflatten(0, (2, 3)))
    torch.testing.assert_close(halves.flatten(0, 1).double(), wanted, rtol=0, atol=1e-6)
    # torch's LSTM has no batched gradients; it is taken in training, and never in eval mode here.
    jacobian = torch.autograd.functional.jacobian(pooled, features, vectorize=not training)
    slope = einsum(jacobian, tangents, "b d n c, n c -> b d")
    for got in (
        torch.func.jvp(pooled, (features,), (tangents,))[1],
        dual(pooled, features, tangents),
    ):
        torch.testing.assert_close(got, slope, rtol=0, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace is deprecated
        traced = torch.jit.trace(pooled, features)
    torch.testing.assert_close(traced(features[:4]).double(), wanted[:4], rtol=0, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(pooled(features).double(), wanted, rtol=0, atol=0.03)


def dual(function, features, tangents):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(features, tangents))).tangent


@pytest.mark.parametrize("name", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
@pytest.mark.parametrize("change", ["pruned", "normalised"])
def test_both_ways_take_the_weights_of_a_changed_cell(name, change):
    torch.manual_seed(0)
    attention = RecurrentRefinedAttention(6, 8, num_steps=3).eval()
    for cell in attention.cells:
        nn.init.normal_(getattr(cell, name))
        if change == "pruned":
            prune.l1_unstructured(cell, name, 0.5)
        elif name.startswith("weight"):
            parametrizations.weight_norm(cell, name)
    features = torch.randn(5, 6)
    with torch.no_grad():
        together, single = attention(features), [attention(row[None]) for row in features]
    torch.testing.assert_close(together.states, torch.cat([one.states for one in single]))
    lstm = attention.to_lstm()
    repeated = features[:, None].expand(-1, 3, -1)
    torch.testing.assert_close(lstm(repeated)[0], together.states)


def test_input_and_random_state_are_left_alone():
    attention = RecurrentRefinedAttention(3, 4)
    features = torch.randn(2, 3, 4, 4)
    before, state = features.clone(), torch.get_rng_state()
    attention(features)
    assert torch.equal(features, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_compiles_without_a_graph_break_and_exports():
    attention = RecurrentRefinedAttention(3, 4, num_steps=3).eval()
    features = torch.randn(2, 3, 4, 4)
    wanted = attention(features)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")(features)
    exported = torch.export.export(attention, (features,)).module()(features)
    for got in (compiled, exported):
        for ours, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_backward_in_eval_mode_on_cuda():
    attention = RecurrentRefinedAttention(3, 4).cuda().eval()
    features = torch.randn(2, 3, device="cuda", requires_grad=True)
    attention(features).pooled.sum().backward()
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (
            torch.zeros(3),
            ValueError,
            "Expected `features` to have shape (b, c, h, w), (b, c) or (b, t, c), but got (3,).",
        ),
        (
            torch.zeros(2, 3, 5, 5),
            ValueError,
            "Expected `features` to have 4 channels, but got 3 in shape (2, 3, 5, 5). Build the "
            "module with input_size=3.",
        ),
        (
            torch.zeros(2, 7, 3),
            ValueError,
            "Expected `features` to have 4 channels, but got 3 in shape (2, 7, 3). Build the "
            "module with input_size=3.",
        ),
        (
            torch.zeros(4, 7, 7),
            ValueError,
            "Expected `features` to have 4 channels, but got 7 in shape (4, 7, 7). Add a batch "
            "axis: features[None].",
        ),
        ([1.0], TypeError, "Expected `features` to be a tensor, but got list."),
        (
            torch.zeros(2, 0, 4),
            ValueError,
            "Expected `features` to hold at least one position, but got shape (2, 0, 4).",
        ),
        (
            torch.zeros(2, 4, dtype=torch.uint8),
            TypeError,
            "Expected `features` to be floating point, but got torch.uint8. Convert them: "
            "features.float().",
        ),
    ],
)
def test_bad_features(features, error, message):
    with pytest.raises(error) as caught:
        RecurrentRefinedAttention(4, 2)(features)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_steps", "num_layers"])
def test_bad_sizes(name):
    sizes = {"input_size": 3, "hidden_size": 4, name: 0}
    with pytest.raises(ValueError, match=f"^Expected `{name}` to be at least 1, but got 0.$"):
        RecurrentRefinedAttention(**sizes)


@pytest.mark.parametrize("kwargs", [{"bidirectional": True}, {"bias": False}, {"proj_size": 2}])
def test_bad_lstm(kwargs):
    lstm = nn.LSTM(3, 4, **kwargs)
    with pytest.raises(ValueError, match="^Expected `lstm` to be unidirectional, with biases"):
        RecurrentRefinedAttention.from_lstm(lstm)


def test_initial_weights():
    torch.manual_seed(0)
    attention = RecurrentRefinedAttention(12, 8)
    for layer, cell in enumerate(attention.cells):
        for gate in range(4):
            rows = slice(8 * gate, 8 * gate + 8)
            inputs, states = cell.weight_ih[rows], cell.weight_hh[rows]
            torch.testing.assert_close(inputs @ inputs.T, 4 * torch.eye(8), rtol=0, atol=1e-4)
            torch.testing.assert_close(states @ states.T, torch.eye(8), rtol=0, atol=1e-4)
        expected = torch.cat([torch.zeros(8), torch.ones(8), torch.zeros(16)])
        assert torch.equal(cell.bias_ih + cell.bias_hh, expected), layer


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.bfloat16, 0.03)])
def test_built_in_a_dtype(dtype, atol):
    """QR, with which the weights are drawn, knows no bfloat16."""
    torch.manual_seed(0)
    built = RecurrentRefinedAttention(4, 4, num_steps=3, dtype=dtype)
    assert {parameter.dtype for parameter in built.parameters()} == {dtype}
    for cell in built.cells:
        for weights, gain in ((cell.weight_ih, 2), (cell.weight_hh, 1)):
            for gate in weights.double().split(4):
                wanted = gain**2 * torch.eye(4, dtype=torch.float64)
                torch.testing.assert_close(gate @ gate.T, wanted, rtol=0, atol=gain**2 * atol)


def test_built_on_a_device():
    built = RecurrentRefinedAttention(8, 4, num_steps=3, device="meta")
    assert all(parameter.is_meta for parameter in built.parameters())
    found = built(torch.zeros(2, 8, 5, 5, device="meta"))
    assert found.pooled.is_meta
    assert found.states.shape == (2, 3, 4)
