"""`Graph`: a `torch.fx.GraphModule` together with what a caller must know about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from rewrite.errors import InputError, near
from rewrite.ir.certificate import Certificate
from rewrite.ir.fields import Fields
from rewrite.ir.methods import Editing, Selecting
from rewrite.ir.nested import Place, unnested
from rewrite.ir.size_text import unmet
from rewrite.ir.values import attribute
from rewrite.world import is_out_of_memory, turned, words

if TYPE_CHECKING:
    from rewrite.rules.engine import At, Rule

Dim = int | str


@dataclass(frozen=True)
class InputSpec:
    """What one input must look like: dimensions are fixed sizes, or names that must agree.

    >>> InputSpec("input_ids", ("batch", "seq"), torch.int64).describe()
    'input_ids: int64 [batch, seq]'
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: torch.dtype

    def describe(self) -> str:
        """The specification on one line."""
        dims = ", ".join(str(dim) for dim in self.shape)
        return f"{self.name}: {str(self.dtype).removeprefix('torch.')} [{dims}]"


@dataclass(frozen=True)
class OutputSpec:
    """How the flat tuple of output tensors becomes what the model itself returns."""

    names: tuple[str, ...]
    build: Callable[[dict[str, Tensor]], Any]

    def __call__(self, values: tuple[Tensor, ...]) -> Any:
        return self.build(dict(zip(self.names, values, strict=True)))


@dataclass(frozen=True)
class Graph(Fields, Selecting, Editing):
    """An executable graph: callable like the model, printable, never changed in place.

    `module` is an ordinary `fx.GraphModule` whose parameters are the model's own.

    >>> import rewrite as rw
    >>> graph = rw.trace(torch.nn.Linear(2, 3).eval(), inputs={"input": torch.ones(3, 2)})
    >>> graph(input=torch.ones(5, 2)).shape
    torch.Size([5, 3])
    """

    module: fx.GraphModule
    inputs: tuple[InputSpec, ...]
    outputs: OutputSpec
    name: str = "graph"
    certificate: Certificate | None = None
    origin: str | None = None  # the name or folder that it was traced from
    guards: tuple[str, ...] = ()  # conditions on shapes: "input_ids.shape[1] <= 2048"
    weightless: bool = False  # its parameters are on the meta device: `with_weights` gives values
    bind: Callable[..., Graph] | None = None  # how the stage that traced it gives it weights
    constants: Mapping[str, Any] = field(default_factory=dict)  # inputs that are no tensors
    live: Any = field(default=None, repr=False, compare=False)  # a `rewrite.trace.live.Live`
    trail: Any = None  # what rules have done to it: a `rewrite.rules.trail.Trail`

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        return self.outputs(self.flat(*args, **inputs))

    def flat(self, *args: Any, **inputs: Any) -> tuple[Tensor, ...]:
        """The output tensors, in the order of `outputs.names`."""
        given = self.given(in_order(self, args) | inputs)
        with told(self, given):
            return self.module(*(given[spec.name] for spec in self.inputs))

    @property
    def dtype(self) -> torch.dtype | None:
        """The floating type of the (first) weights: a graph holds for that type only."""
        return next((dtype for _, dtype, _ in self._weights), None)

    @cached_property
    def _weights(self) -> tuple[tuple[str, torch.dtype, Tensor], ...]:
        """Floating weights: name, type when they were traced, and the tensor itself."""
        found = []
        for node in self.module.graph.find_nodes(op="get_attr"):
            seen, tensor = node.meta.get("val"), attribute(self.module, str(node.target))
            if isinstance(seen, Tensor) and seen.is_floating_point() and isinstance(tensor, Tensor):
                found.append((str(node.target), seen.dtype, tensor))
        # Conversion of a model puts new buffers in place of the old ones, which a graph keeps.
        return tuple(w for w in found if isinstance(w[2], torch.nn.Parameter)) or tuple(found)

    def given(self, inputs: Mapping[str, Any], who: str = "") -> dict[str, Tensor]:
        """The tensors in `inputs`, by the names of the graph's own; raises `InputError`.

        They may be nested as in the model's forward, or be called `pair.0`.  A constant of the
        graph may be given again, with the value that it has.

        >>> import rewrite as rw
        >>> graph = rw.trace(torch.nn.ReLU().eval(), inputs={"input": torch.ones(3, 2)})
        >>> list(graph.given({"input": torch.ones(5, 2)}))
        ['input']
        """
        names = [spec.name for spec in self.inputs]
        found: dict[str, Any] = {}
        for name, value in inputs.items():
            found |= {name: value} if name in names else unnested(value, str(name))[1]
        where = f"{self.name}{f' ({who})' if who else ''}"
        for name in [name for name in found if name in self.constants]:
            value, known = found.pop(name), self.constants[name]
            if type(value) is not type(known) or value != known:
                raise InputError(f"{where} was traced with {name}={known!r}, which is a constant "
                                 f"of the graph, found {name}={value!r}: trace the model again "
                                 f"with {name}={value!r}")
        self.check(found, who)
        return found

    def check(self, inputs: Mapping[str, Any], who: str = "") -> dict[str, int]:
        """Raise `InputError` unless `inputs` fit; returns the sizes of the named dimensions."""
        names = [spec.name for spec in self.inputs]
        where = f"{self.name}{f' ({who})' if who else ''}"
        if self.weightless:
            raise InputError(f"{where} cannot be called, it was traced without weights: call "
                             "graph.with_weights(model) first, and use the graph that it returns")
        # Conversion of a model changes all of its parameters: the first and the last tell.
        if changed := self._exchanged or _changed((*self._weights[:1], *self._weights[-1:])):
            raise InputError(f"{where}: {changed}")
        if extra := [name for name in inputs if name not in names]:
            raise InputError(f"{where} has no input {extra[0]!r}; {near(extra[0], names)} (it was "
                             f"traced with {', '.join(names)}: leave {extra[0]!r} out if the model "
                             "does the same without it, else trace the model with it)")
        if missing := [name for name in names if name not in inputs]:
            call = ", ".join(f"{name}=..." if name.isidentifier() else f"**{{{name!r}: ...}}"
                             for name in names)
            raise InputError(f"{where} needs the input {missing[0]!r}: call it with ({call})")
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            _check_one(spec, inputs[spec.name], sizes, where)
        if guard := unmet(self.guards, {name: tuple(inputs[name].shape) for name in names}):
            shapes = ", ".join(f"{n} {list(inputs[n].shape)}" for n in names)
            raise InputError(f"{where} was traced for inputs with {guard}, found {shapes}; trace "
                             "the model again with inputs of these sizes")
        return sizes

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that compute, in order."""
        hidden = {"placeholder", "output", "get_attr"}
        return tuple(node.name for node in self.module.graph.nodes if node.op not in hidden)

    @property
    def code(self) -> str:
        """Python source of the graph."""
        return self.module.code

    def with_module(self, module: fx.GraphModule) -> Graph:
        """The same interface over another module; its certificate is gone with the old one."""
        return replace(self, module=module, certificate=None, trail=None)

    @cached_property
    def _followed(self) -> Any:
        return self.live and self.live.followed(self)

    @property
    def _exchanged(self) -> str | None:
        return self._followed and self._followed.exchanged()

    def verify(self, inputs: Mapping[str, Any] | None = None) -> Certificate:
        """Compare the graph with the model that it was traced from, as that is now.

        A graph shares the weights of its model, so it follows when they are trained or written
        to.  It does not follow what is put in their place (`load_state_dict(assign=True)`), which
        is an `InputError` at the next call, nor hooks, buffers and modes that are changed later,
        which are noticed here.  Outputs and gradients are compared on `inputs` (default: those of
        the trace) and at other sizes.  The certificate that is returned notes hooks and buffers
        that have changed without any effect.

        Raises `TraceError` that names what differs, and where the model is gone.

        >>> import rewrite as rw
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2)).eval()
        >>> graph = rw.trace(model, inputs={"input": torch.ones(3, 2)})
        >>> graph.verify().difference
        0.0
        >>> _ = model[0].register_forward_hook(lambda module, given, output: output + 1)
        >>> graph.verify()
        Traceback (most recent call last):
        ...
        rewrite.errors.TraceError: Sequential has changed since it was traced: forward hook ...
        """
        if self.live is None:
            raise InputError(f"{self.name} was not traced from a model in this process, so there "
                             "is none to compare it with: use graph.with_weights(model)")
        return self.live.verify(self, inputs)

    def with_weights(
        self, weights: torch.nn.Module | Mapping[str, Tensor],
        inputs: Mapping[str, Tensor] | None = None,
    ) -> Graph:
        """The same graph over the parameters and buffers of a model, found by name.

        `weights` is a model, with which the result is compared (on `inputs` of the names of
        the graph's own, if it does not take the usual ones), or a dict of tensors by name,
        which leaves the parity unmeasured.  A graph that surgery has changed is not compared,
        and what surgery has put into a graph without weights stays.  Nothing is copied.

        Raises `TraceError` that lists what is missing or of another shape or type, and if
        the graph then disagrees with the model.

        >>> import rewrite as rw, transformers
        >>> config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=50)
        >>> empty = rw.trace(config)
        >>> model = transformers.GPT2LMHeadModel(config).eval()
        >>> empty.with_weights(model).certificate.difference
        0.0
        """
        if self.bind is None:
            raise InputError(f"{self.name} was not traced from a model, so it cannot take the "
                             "weights of one: use the graph that rw.trace returns")
        return self.bind(self, weights, inputs)

    def components(
        self, sources: str | Sequence[str] | None = None, granularity: str | None = None
    ) -> Any:
        """The component graph: embedding, heads with q/k/v ports, MLPs, logits, by name.

        `sources` are the inputs at which paths begin (default: every value input).
        `granularity` is "stream" (what writes to the residual stream is a part), "module"
        (what leaves a module is one too) or "op" (every operator is); by default "stream",
        and "module" for a model without a residual stream.
        """
        from rewrite.parts import components

        return components(self, sources, granularity)

    def rewrite(
        self, rules: Rule | Iterable[Rule], at: At = None, *, limit: int = 1000,
        steps: int | None = None,
    ) -> Graph:
        """The graph after rules have been applied to it until none fires (see `rw.rule`).

        `at` restricts them to some nodes: a name, or a matcher of `rw.match`.  `steps` stops
        after so many steps, and `limit` is how many may follow on each other's results.  The
        result's `trail` tells each step.

        >>> import rewrite as rw
        >>> graph = rw.trace(torch.nn.GELU().eval(), inputs={"input": torch.ones(3, 2)})
        >>> print(graph.rewrite(rw.rule("negated", "gelu(x) = -(-gelu(x))", once=True)).trail)
           1  negated  gelu: gelu(input_1) -> neg(neg(gelu(input_1)))
        """
        from rewrite.rules.engine import rewrite

        return rewrite(self, rules, at, limit=limit, steps=steps)

    def text(self) -> str:
        """The graph as a stable text, which `rw.from_text(text, weights)` reads back."""
        from rewrite.ir.text import to_text

        return to_text(self)

    def export(self, path: str | Path) -> Path:
        """Write a .pt2 file, which `torch.export.load` reads without this package.

        To keep a graph, or to pass it on, `rw.save` it as a .graph file: reading a .pt2 file runs
        what it says.  Raises `FileError` for a graph without weights, and for operators that
        torch cannot write.
        """
        from rewrite.files.exported import export

        return export(self, Path(path))

    def diff(self, after: Graph) -> Any:
        """What is different in a later graph: `print` it, or `draw` it.

        >>> import rewrite as rw
        >>> graph = rw.trace(torch.nn.GELU().eval(), inputs={"input": torch.ones(3, 2)})
        >>> graph.diff(graph.replace("gelu", torch.tanh)).changed
        ('gelu',)
        """
        from rewrite.ir.diff import diff

        return diff(self, after)

    def draw(self, path: str | Path | None = None, **options: Any) -> Any:
        """Draw to SVG, PNG, PDF or DOT by suffix (see `rewrite.draw`)."""
        from rewrite.draw import draw

        return draw(self, path, **options)

    def _repr_svg_(self) -> str:
        from rewrite.draw import svg

        return svg(self)


def in_order(graph: Graph, args: tuple[Any, ...]) -> dict[str, Any]:
    """Inputs that are given by position: a dict of them, or tensors in order."""
    if len(args) == 1 and isinstance(args[0], Mapping):
        return dict(args[0])
    names = [spec.name for spec in graph.inputs]
    if len(args) > len(names) or not all(isinstance(value, Tensor) for value in args):
        call = ", ".join(f"{format(Place(name))}=..." for name in names)
        raise InputError(f"{graph.name} takes tensors by name, {graph.name}({call}), found "
                         f"{', '.join(type(value).__name__ for value in args)}")
    return dict(zip(names, args, strict=False))


@contextmanager
def told(graph: Graph, given: Mapping[str, Any]) -> Iterator[None]:
    """What operators, and functions that were put in, raise about inputs is an `InputError`."""
    try:
        with turned(InputError, str):
            yield
    except InputError as error:
        cause = error.__cause__
        if cause is None:
            raise  # it says all
        if changed := _changed(graph._weights):
            raise InputError(f"{graph.name}: {changed}") from cause
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in tensors.items())
        why = ""
        if isinstance(cause, IndexError) or "out of bounds" in words(cause):
            why = ("; an input holds a number for which a table of the model has no row, or is "
                   "longer than its table of positions")
        elif any(value.numel() == 0 for value in tensors.values()):
            why = ("; an input is empty, which the model cannot read: give at least one of each")
        name = "" if is_out_of_memory(cause) else f"{type(cause).__name__}: "
        raise InputError(f"{graph.name} fails on {shapes}: {name}{error}{why}") from cause


def _changed(weights: tuple[tuple[str, torch.dtype, Tensor], ...]) -> str | None:
    """What is wrong if a weight has another type than when it was traced."""
    for name, dtype, tensor in weights:
        if tensor.dtype != dtype:
            was, now = (str(t).removeprefix("torch.") for t in (dtype, tensor.dtype))
            return (f"{name} is {now} now and was {was} when the model was traced; a graph shares "
                    f"the model's weights and holds for one type only: trace the model again, or "
                    f"undo the change by model.to(torch.{was})")
    return None


def _check_one(spec: InputSpec, value: Tensor, sizes: dict[str, int], where: str) -> None:
    if not isinstance(value, Tensor):
        found = type(value).__name__
        raise InputError(f"{where}: {spec.name} must be a tensor, found {found}")
    found = f"found {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if value.ndim != len(spec.shape) or value.dtype != spec.dtype:
        raise InputError(f"{where}: expected {spec.describe()}, {found}")
    for dim, size in zip(spec.shape, value.shape, strict=True):
        wanted = dim if isinstance(dim, int) else sizes.setdefault(dim, size)
        if size != wanted:
            why = "fixed when the model was traced" if isinstance(dim, int) else f"{dim}={wanted}"
            raise InputError(f"{where}: expected {spec.describe()} with size {wanted} "
                             f"({why}), {found}")
