// Stands in for an instruction set that this machine or compiler does not have.
#include "tokens.hpp"

namespace vmamba {
const TokenKernels* VMAMBA_TOKENS_GETTER(VMAMBA_ISA)() { return nullptr; }
}  // namespace vmamba
