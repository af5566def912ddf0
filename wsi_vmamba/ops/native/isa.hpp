// Choice among tables of kernels, one per instruction set, each with a `name`. For the modules only: kernel files
// must not include it (see kernels.hpp).
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace vmamba {

// Tile registers and their products of bfloat16; not every compiler can be asked by name.
inline bool has_tiles() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kBf16) != 0 && (d & kTile) != 0;
#else
  return false;
#endif
}

// The system lets a process use the tile registers once it has asked for them.
inline bool tiles_allowed() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

inline bool machine_has(const std::string& name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (name == "amx") {
    return machine_has("avx512bf16") && has_tiles() && tiles_allowed();
  }
  if (name == "avx512" || name == "avx512bf16") {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return wide && (name == "avx512" || __builtin_cpu_supports("avx512bf16"));
  }
  if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return name == "baseline";
}

// Of the tables compiled in (null pointers otherwise), best first, those whose instructions the machine offers.
template <class Table>
std::vector<const Table*> usable_tables(std::initializer_list<const Table*> tables) {
  std::vector<const Table*> found;
  for (const Table* table : tables) {
    if (table != nullptr && machine_has(table->name)) found.push_back(table);
  }
  return found;
}

// The table of that name, or the best for an empty one.
template <class Table>
const Table& choose_table(const std::vector<const Table*>& usable, const std::string& isa) {
  if (isa.empty()) return *usable.front();
  for (const Table* table : usable) {
    if (isa == table->name) return *table;
  }
  throw std::invalid_argument("instruction set '" + isa + "' is not compiled in or not offered by this machine");
}

template <class Table>
std::vector<std::string> table_names(const std::vector<const Table*>& usable) {
  std::vector<std::string> names;
  for (const Table* table : usable) names.emplace_back(table->name);
  return names;
}

}  // namespace vmamba
