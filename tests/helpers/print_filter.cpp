// Prints what _launcher.filter_rules() and filter_program() give, for a machine that cannot run
// Python here: cross-compiled with csrc/worker/seccomp.cpp and syscall_table.cpp.
#include <cstdio>

#include "worker/seccomp.h"
#include "worker/syscall_table.h"

int main() {
  for (const stepcoder::SyscallRule& rule : stepcoder::syscall_rules())
    std::printf("rule %d %d %s\n", rule.number, static_cast<int>(rule.rule), rule.name.data());
  for (int which = 0; which < 4; ++which)
    for (const sock_filter& one : stepcoder::build_filter((which & 2) != 0, (which & 1) != 0))
      std::printf("filter%d %u %u %u %u\n", which, one.code, one.jt, one.jf, one.k);
}
