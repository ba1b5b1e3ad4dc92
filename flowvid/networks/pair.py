"""Cross-attention between two frames: what lies between them, or how one of them goes on given the other.

Each frame is a stream of tokens that attends within itself and then to the other frame, at real places: a token finds
where its content went by the displacement that it attends along. Both streams share their weights and differ in what
they are told, the scalars of their own frame (how far away in time it is, whether it is there). The answer sums what
the two streams say, so it does not depend on which frame is called the first.

References:
    Attention Is All You Need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762
    GMFlow: Learning Optical Flow via Global Matching (Xu et al., 2021), displacement from attention, https://arxiv.org/abs/2111.13680
"""

__all__ = ["PairTransformer"]

from jaxtyping import Float
from torch import Tensor, nn

from flowvid.networks.attention import Rotary
from flowvid.networks.layers import ScalarEmbedding
from flowvid.networks.patches import grid, pixels, tubelets
from flowvid.networks.transformer import LastLayer, TransformerBlock


class PairTransformer(nn.Module):
    """Two latent grids with their scalars in, one grid out.

    Arguments:
        inputs: Channels of a frame.
        outputs: Channels out.
        scalars: Scalars of a frame, each of order one.
        width: Features of a token.
        heads: Of every attention.
        depth: Blocks.
        patch: Side of the square of pixels that makes a token.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        scalars: int,
        width: int = 96,
        heads: int = 4,
        depth: int = 4,
        patch: int = 1,
    ) -> None:
        super().__init__()
        self.tubelet = (1, patch, patch)
        self.embed = ScalarEmbedding(scalars, 2 * width)
        self.enter = nn.Linear(inputs * patch**2, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, 2 * width, context=width) for _ in range(depth))
        self.rotary = Rotary(width // heads, ((2.0, 128.0), (2.0, 128.0)))
        self.leave = LastLayer(width, 2 * width, outputs * patch**2)

    def forward(
        self,
        frames: Float[Tensor, "batch 2 inputs height width"],
        scalars: Float[Tensor, "batch 2 scalar"],
    ) -> Float[Tensor, "batch outputs height width"]:
        """The answer.

        Arguments:
            frames: The two frames.
            scalars: What is told of each of them.
        """
        height, wide = frames.shape[3:]
        embedding = self.embed(scalars.flatten(0, 1))
        tokens, rows, columns = tubelets(frames.flatten(0, 1)[:, None], self.tubelet)
        tokens = self.enter(tokens)
        angles = self.rotary(grid(rows, columns, self.tubelet, tokens)).expand(len(tokens), -1, -1)
        for block in self.blocks:
            other = tokens.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            tokens = block(tokens, embedding, angles=angles, context=other, context_angles=angles)
        answer = pixels(self.leave(tokens, embedding), (1, rows, columns), self.tubelet)[:, 0, :, :height, :wide]
        return answer.unflatten(0, (-1, 2)).sum(1)
