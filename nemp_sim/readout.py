"""From the densities of the atoms to their energies.

Source and symbols: ``model.py``. N atoms, S elements, K channels, T message-passing steps.
"""

import torch
from torch import Tensor, nn

from nemp_sim.config import ModelConfig
from nemp_sim.mlp import MLP


class ReadOut(nn.Module):
    """From the densities of the atoms to their energies, for one level of theory (a "head").

    E_i = std (scale_Z MLP_out(ρ_i/m_i) + shift_Z s_i) + E⁰_Z, with s_i one in the published form
    and n_i/(n_i + n0) in the smooth form.

    Besides the weights, the state holds

    * ``reference_energies`` (S,) float64, eV: E⁰_Z, the energy of the lone atom in the smooth form,
      the published ``energy_per_atom`` in the published form;
    * ``members`` (M, width): deviations of the last layer's weights in an ensemble of M read-outs,
      fitted by ``training/uncertainty.py``; they add up to zero; M is zero where none was fitted;
    * ``force_calibration``: factor of the standard deviations of forces.
    """

    reference_energies: Tensor
    members: Tensor
    force_calibration: Tensor

    def __init__(self, config: ModelConfig) -> None:
        """Draw the weights of ``config`` from torch's global generator."""
        super().__init__()
        n, width = len(config.elements), (config.n_message_passing + 2) * config.n_channels
        self.energy_scale_eV = config.energy_scale_eV
        self.smooth = config.form == "smooth"
        self.output_mlp = MLP(width, 1, config.output_mlp, bias=config.output_bias)
        self.energy_factor = nn.Parameter(torch.ones(n))  # scale_Z
        self.energy_shift = nn.Parameter(torch.zeros(n))  # shift_Z
        self.register_buffer("reference_energies", torch.zeros(n, dtype=torch.float64))
        last = self.output_mlp.output_layer.kernel.shape[0]
        self.register_buffer("members", torch.zeros(0, last))
        self.register_buffer("force_calibration", torch.ones(()))

    def features(self, density: Tensor, species: Tensor) -> Tensor:
        """∂E_i/∂w of the weights w of the last layer, (N, width), eV."""
        factor = self.energy_factor.index_select(0, species)[:, None] * self.energy_scale_eV
        return self.output_mlp.hidden(density) * factor * self.output_mlp.output_layer.scale

    def forward(self, density: Tensor, saturation: Tensor, species: Tensor) -> Tensor:
        """Atomic energies (N,) float64, eV, of densities (N, (T+2)K) and saturations (N,)."""
        factor = self.energy_factor.index_select(0, species)
        shift = self.energy_shift.index_select(0, species)
        if self.smooth:
            shift = shift * saturation
        network = factor * self.output_mlp(density)[:, 0] + shift
        reference = self.reference_energies.index_select(0, species)
        return self.energy_scale_eV * network.double() + reference
