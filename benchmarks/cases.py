"""The networks whose tangent kernel is timed, and what that costs at least."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """A network without biases, ReLU between layers, and how many samples.

    Attributes:
        sizes: widths from the inputs to the outputs; for a convolutional one channels,
            the last layer dense after the mean over positions.
        image: side of the square images of a convolutional network; 0: dense.
    """

    samples: int
    sizes: tuple[int, ...]
    outputs: str = "trace"
    image: int = 0

    def arrays(self, dtype: str, seed: int) -> dict[str, np.ndarray]:
        """Inputs N(0, 1), weights N(0, 2 / fan-in), by the names worker.py reads."""
        draw = np.random.default_rng(seed).standard_normal
        shape = (self.sizes[0], self.image, self.image)[: 3 if self.image else 1]
        found = {"x": draw((self.samples, *shape)).astype(dtype)}
        pairs = list(zip(self.sizes, self.sizes[1:], strict=False))
        for k, (i, o) in enumerate(pairs):
            filters = (3, 3) if self.image and k < len(pairs) - 1 else ()
            fan = i * (9 if filters else 1)
            weight = np.sqrt(2 / fan) * draw((o, i, *filters))
            found[f"weight{k}"] = weight.astype(dtype)
        words = {"layers": len(pairs), "dtype": dtype, "outputs": self.outputs}
        return found | {k: np.array(v) for k, v in words.items()}

    def operations(self) -> int | None:
        """The fewest multiplications and additions by products; dense networks only.

        Forward; sensitivities (those of the last layer are the identity, those of the
        layer below its weights times a gate); the symmetric half of each Gram. The
        trace of the layer below the last needs one Gram, not one per output.
        """
        if self.image:
            return None
        n, o = self.samples, self.sizes[-1]
        weights = [i * k for i, k in zip(self.sizes, self.sizes[1:], strict=False)]
        passes = 2 * n * (sum(weights) + o * sum(weights[1:-1]))
        half = n * (n + 1)  # twice the pairs of samples
        inputs = half * sum(self.sizes[:-1])
        *lower, last = self.sizes[1:-1]
        if self.outputs == "full":
            return passes + inputs + n * o * (n * o + 1) * (sum(lower) + last)
        return passes + inputs + half * (o * sum(lower) + last)


CASES = {
    "mlp-1024x3-n2000": Case(2000, (784, 1024, 1024, 1024, 1)),
    "mlp-1024x3-n1000": Case(1000, (784, 1024, 1024, 1024, 1)),
    "mlp-256x3-n1000": Case(1000, (784, 256, 256, 256, 1)),
    "mlp-4096x3-n1000": Case(1000, (784, 4096, 4096, 4096, 1)),
    "mlp-1024x1-n1000": Case(1000, (784, 1024, 1)),
    "mlp-4096x1-n1000": Case(1000, (784, 4096, 1)),
    "mlp-1024x3-o10-n500-full": Case(500, (784, 1024, 1024, 1024, 10), "full"),
    "mlp-1024x3-o10-n500-trace": Case(500, (784, 1024, 1024, 1024, 10)),
    "cnn-64x3-o10-n64-full": Case(64, (3, 64, 64, 64, 10), "full", image=32),
}
