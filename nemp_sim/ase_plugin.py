"""What ASE's plugin collection finds: the entry point ``nemp`` of the group ``ase.plugins``."""

from ase._4.plugins.plugin import CalculatorPlugin  # ASE 3.29: the name will change with ASE 4

__ase_plugins__ = {
    CalculatorPlugin(
        "nemp",
        citation="Y. Zhang and H. Guo, Chem. Sci. 2026, 10.1039/d5sc07248d",
        implementation="nemp_sim.calculator.NEMP",
    )
}
