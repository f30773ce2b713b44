"""Train a TopK autoencoder with sparse decoding and sparse weight gradients (Gao et al. 2024, appendix D).

The steps of SAELens's SAETrainer on its TopKTrainingSAE: the same losses, clipping, Adam, schedule and statistics of
dead latents. Of a step, only the pre-activations are dense; all else touches the k latents of each vector. Gradients
are written out: decoder norms choose the latents and cancel in the codes, so that no gradient passes through them.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

if TYPE_CHECKING:
    from sae_lens import TopKTrainingSAE
    from sae_lens.config import SAETrainerConfig

CLIP = 1.0  # largest norm of all gradients together, as in SAETrainer


class Losses(NamedTuple):
    """Losses of one step before its update: mean squared error, and that of the dead latents."""

    mse: Float[Tensor, ""]
    auxiliary: Float[Tensor, ""]


class TopKLoop:
    """Steps of training on a SAELens TopKTrainingSAE, whose weights `finish` replaces.

    since_fired: (width,) steps since each latent was last active; l0: mean latents active in the last step.
    """

    def __init__(self, sae: "TopKTrainingSAE", options: "SAETrainerConfig") -> None:
        """Copy the weights; set up optimiser and schedule. Raises ValueError if decoder norms do not scale the codes.

        Args:
            sae: The start.
            options: Those of SAETrainer: learning rate, its decay, betas, the window of dead latents.
        """
        from sae_lens.training.optim import get_lr_scheduler

        if not (sae.cfg.rescale_acts_by_decoder_norm and sae.cfg.apply_b_dec_to_input):
            raise ValueError("a TopK loop needs rescale_acts_by_decoder_norm and apply_b_dec_to_input")
        self.sae, self.k, self.window = sae, sae.cfg.k, options.dead_feature_window
        self.aux_coefficient = sae.cfg.aux_loss_coefficient
        self.encoder = sae.W_enc.detach().T.contiguous()  # (width, d_in), rows gathered as the decoder's are
        self.b_enc, self.decoder = sae.b_enc.detach().clone(), sae.W_dec.detach().clone()
        self.b_dec = sae.b_dec.detach().clone()
        self.parameters = [self.encoder, self.b_enc, self.decoder, self.b_dec]
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        betas = (options.adam_beta1, options.adam_beta2)
        self.optimizer = torch.optim.Adam(self.parameters, lr=options.lr, betas=betas, fused=True)
        assert options.lr_end is not None
        self.scheduler = get_lr_scheduler(
            options.lr_scheduler_name,
            lr=options.lr,
            optimizer=self.optimizer,
            warm_up_steps=options.lr_warm_up_steps,
            decay_steps=options.lr_decay_steps,
            training_steps=options.total_training_steps,
            lr_end=options.lr_end,
            num_cycles=options.n_restart_cycles,
        )
        self.since_fired = torch.zeros(sae.cfg.d_sae, device=self.b_enc.device)
        self.l0 = torch.zeros(())

    @property
    def dead(self) -> Tensor:
        """(width,) True on latents that were inactive for longer than the window."""
        return self.since_fired > self.window

    @torch.no_grad()
    def step(self, x: Float[Tensor, "batch d_in"]) -> Losses:
        """Take one step on a batch of scaled vectors."""
        centred, norms = x - self.b_dec, self.decoder.norm(dim=1)
        hidden = torch.addmm(self.b_enc * norms, centred, (self.encoder * norms[:, None]).T)
        values, chosen = hidden.topk(self.k, sorted=False)
        on = values > 0
        codes = torch.where(on, values, 0.0) / norms[chosen]
        dead = self.dead
        rebuilt, code_slope, error = self._decode(codes, chosen, x)
        self._write_gradients(centred, error, codes, code_slope * on, chosen)
        auxiliary = self._revive(hidden, x - rebuilt, centred, norms, dead)
        self.since_fired += 1
        fired = torch.zeros_like(self.since_fired).index_add_(0, chosen.flatten(), on.flatten().to(self.since_fired))
        self.since_fired.masked_fill_(fired > 0, 0)
        self.l0 = on.sum() / len(x)  # no number yet: the host would wait for a graphics card at every step
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.scheduler.step()
        return Losses((x - rebuilt).square().sum() / len(x), auxiliary)

    def finish(self) -> None:
        """Write the weights back to the SAELens class."""
        for parameter, value in (
            (self.sae.W_enc, self.encoder.T.contiguous()),
            (self.sae.b_enc, self.b_enc),
            (self.sae.W_dec, self.decoder),
            (self.sae.b_dec, self.b_dec),
        ):
            parameter.data = value.detach().clone()

    def _decode(self, codes: Tensor, chosen: Int[Tensor, "batch k"], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, d_in) reconstructions; the slope of the loss along codes, (batch, k), and reconstructions."""
        with torch.enable_grad():
            leaf = codes.detach().requires_grad_()
            summed = embedding_bag(chosen, self.decoder.detach(), per_sample_weights=leaf, mode="sum")
        rebuilt = summed.detach() + self.b_dec
        error = (rebuilt - x) * (2 / len(x))
        (slope,) = torch.autograd.grad(summed, leaf, error)
        return rebuilt, slope, error

    def _write_gradients(self, centred: Tensor, error: Tensor, codes: Tensor, slope: Tensor, chosen: Tensor) -> None:
        """Gradients of the reconstruction, each a sum over the vectors that use a latent."""
        width, flat = len(self.b_enc), chosen.flatten()
        order = flat.argsort()
        vector = order // self.k
        counts = torch.bincount(flat, minlength=width)
        offsets = counts.cumsum(0) - counts
        slopes = slope.flatten()
        for parameter, rows, weights in ((self.decoder, error, codes.flatten()), (self.encoder, centred, slopes)):
            assert parameter.grad is not None
            parameter.grad.copy_(embedding_bag(vector, rows, offsets, per_sample_weights=weights[order], mode="sum"))
        bias = torch.zeros_like(self.b_enc).index_add_(0, flat, slopes)
        assert self.b_enc.grad is not None
        assert self.b_dec.grad is not None
        self.b_enc.grad.copy_(bias)
        self.b_dec.grad.copy_(error.sum(0) - bias @ self.encoder)

    def _revive(self, hidden: Tensor, residual: Tensor, centred: Tensor, norms: Tensor, dead: Tensor) -> Tensor:
        """Add the gradients of the auxiliary loss: dead latents rebuild what the others left. Returns the loss."""
        which = dead.nonzero()[:, 0]
        if not len(which):
            return residual.new_zeros(())
        half = residual.shape[1] // 2
        scale, count = self.aux_coefficient * min(len(which) / half, 1.0), min(half, len(which))
        of_dead = hidden[:, which]
        chosen = of_dead.topk(count, sorted=False).indices
        mask = torch.zeros_like(of_dead).scatter_(1, chosen, 1.0)
        codes = of_dead * mask / norms[which]
        decoder, encoder = self.decoder[which], self.encoder[which]
        error = codes @ decoder - residual
        slope_out = error * (2 * scale / len(residual))
        slope = (slope_out @ decoder.T) * mask
        bias = slope.sum(0)
        for parameter, gradient in (
            (self.decoder, codes.T @ slope_out),
            (self.encoder, slope.T @ centred),
            (self.b_enc, bias),
        ):
            assert parameter.grad is not None
            parameter.grad.index_add_(0, which, gradient)
        assert self.b_dec.grad is not None
        self.b_dec.grad -= bias @ encoder
        return scale * error.square().sum() / len(residual)
