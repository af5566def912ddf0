// Stands in for an instruction set that this machine or compiler does not have.
#include "kernels.hpp"

namespace vmamba {
const Kernels* VMAMBA_GETTER(VMAMBA_ISA)() { return nullptr; }
}  // namespace vmamba
