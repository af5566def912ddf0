// Stands in for an instruction set that this machine or compiler does not have.
#include "resample.hpp"

namespace vmamba {
const Resampler* VMAMBA_RESAMPLER(VMAMBA_ISA)() { return nullptr; }
}  // namespace vmamba
