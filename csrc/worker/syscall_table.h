// The system calls a program may make, may not make, or is stopped for making.
//
// An allow-list: whatever is not named here fails with EPERM. Calls that a machine does not have
// are left out by the preprocessor (aarch64 has no open, stat, fork, ...).
#pragma once

#include <sys/syscall.h>

#include <span>
#include <string_view>

namespace stepcoder {

enum class Rule {
  kAllow,
  kViolation,     // only an escape needs it: the run ends and the verdict names the call
  kNoSuchCall,    // ENOSYS, so that libc takes the older call whose arguments can be checked
  kThreadsOnly,   // clone: only what pthread_create asks for
  kNoExecMemory,  // mprotect: never PROT_EXEC
  kFileCodeOnly,  // mmap: PROT_EXEC only for a file (extension modules), never anonymous
  kOwnSignals,    // rt_sigaction: not the signals that report violations
  kNoAddress,     // sendto: only on a connected pair
  kUnixPair,      // socketpair: AF_UNIX only
  kPlainIoctl,    // ioctl: file descriptor flags and "is it a terminal"
  kPlainFcntl,    // fcntl: duplicate, flags, and locks as kNoLock
  kPlainPrctl,    // prctl: thread names
  kInsideOnly,    // kill and friends: allowed where the run has a pid namespace of its own
  // Succeeds without effect. A run is one process and shares its scratch folder with nobody, so it
  // would get any lock there; elsewhere other runs and the machine would notice.
  kNoLock,
  kOwnLimits,   // prlimit64: only of the caller
  kByPathOnly,  // utimensat: not of an open file, since runs share those that they begin with
  kWholeRange,  // fallocate: as posix_fallocate, without reserving or giving back hidden space
};

struct SyscallRule {
  int number;
  Rule rule;
  std::string_view name;
};

std::span<const SyscallRule> syscall_rules();

// "socket" for 41 on x86-64; "unknown system call" for a number that is not in the table.
std::string_view syscall_name(int number);

}  // namespace stepcoder
