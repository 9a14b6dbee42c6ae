// See seccomp.h. Offsets and flags follow the kernel's seccomp_data. The filter first checks the
// architecture, since a 32-bit call has other numbers.
#include "worker/seccomp.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "wire/fd.h"
#include "wire/protocol.h"
#include "worker/syscall_table.h"

namespace stepcoder {
namespace {

using Code = std::vector<sock_filter>;

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "the sandbox knows x86-64 and aarch64"
#endif

constexpr uint32_t kAllow = SECCOMP_RET_ALLOW;
constexpr uint32_t kTrap = SECCOMP_RET_TRAP;
constexpr uint32_t refuse(int error) { return SECCOMP_RET_ERRNO | static_cast<uint32_t>(error); }
constexpr uint32_t kNoEffect = SECCOMP_RET_ERRNO;  // 0, as after success

sock_filter statement(int code, uint32_t k) { return BPF_STMT(static_cast<uint16_t>(code), k); }
sock_filter jump(int code, uint32_t k, uint8_t if_true, uint8_t if_false) {
  return BPF_JUMP(static_cast<uint16_t>(code), k, if_true, if_false);
}
sock_filter answer(uint32_t action) { return statement(BPF_RET | BPF_K, action); }
// The low half of argument i (both machines are little-endian); the flags we check fit into it.
sock_filter load_argument(int i) {
  return statement(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offsetof(seccomp_data, args)) +
                                                 8 * static_cast<uint32_t>(i));
}
sock_filter load_argument_high(int i) {
  sock_filter load = load_argument(i);
  load.k += 4;
  return load;
}

// Allows the call if argument i is one of `values`.
Code allow_only(int i, std::initializer_list<uint32_t> values, int error) {
  Code code{load_argument(i)};
  for (uint32_t value : values) {
    code.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1));
    code.push_back(answer(kAllow));
  }
  code.push_back(answer(refuse(error)));
  return code;
}

Code deny_values(int i, std::initializer_list<uint32_t> values, int error) {
  Code code{load_argument(i)};
  for (uint32_t value : values) {
    code.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1));
    code.push_back(answer(refuse(error)));
  }
  code.push_back(answer(kAllow));
  return code;
}

// Refuses the call if any of `bits` is set in argument i.
Code deny_bits(int i, uint32_t bits, uint32_t action) {
  return {load_argument(i), jump(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1), answer(action),
          answer(kAllow)};
}

constexpr uint32_t kThreadFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;

Code threads_only(bool own_pid_namespace, uint32_t violation = kTrap) {
  Code code{load_argument(0)};
  if (own_pid_namespace) {
    // The worker starts runs with this call. In a run it fails for want of a capability.
    code.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, CLONE_NEWPID | SIGCHLD, 0, 1));
    code.push_back(answer(kAllow));
  }
  constexpr uint32_t kNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                   CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
  code.push_back(jump(BPF_JMP | BPF_JSET | BPF_K, kNamespaces, 0, 1));
  code.push_back(answer(violation));
  code.push_back(statement(BPF_ALU | BPF_AND | BPF_K, kThreadFlags));
  code.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, kThreadFlags, 0, 1));
  code.push_back(answer(kAllow));
  code.push_back(answer(refuse(EPERM)));
  return code;
}

// Memory that is shared stays in use when no page table has it any more, so that no one could see
// how much there is. A process on its own has no use for it (preload/private_memory.cpp). Huge
// pages of the machine's own are not counted either.
Code countable_memory(const Code& otherwise) {
  Code code{load_argument(3), jump(BPF_JMP | BPF_JSET | BPF_K, MAP_HUGETLB, 2, 0),
            statement(BPF_ALU | BPF_AND | BPF_K, MAP_SHARED | MAP_ANONYMOUS),
            jump(BPF_JMP | BPF_JEQ | BPF_K, MAP_SHARED | MAP_ANONYMOUS, 0, 1),
            answer(refuse(ENOMEM))};
  code.insert(code.end(), otherwise.begin(), otherwise.end());
  return code;
}

Code file_code_only() {
  return {load_argument(2),
          jump(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 1, 0),
          answer(kAllow),
          load_argument(3),
          jump(BPF_JMP | BPF_JSET | BPF_K, MAP_ANONYMOUS, 0, 1),
          answer(refuse(EPERM)),
          load_argument(2),
          jump(BPF_JMP | BPF_JSET | BPF_K, PROT_WRITE, 0, 1),
          answer(refuse(EPERM)),
          answer(kAllow)};
}

Code no_address() {
  return {load_argument(4),      jump(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0), answer(refuse(EPERM)),
          load_argument_high(4), jump(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0), answer(refuse(EPERM)),
          answer(kAllow)};
}

// A child of the worker has asked to be killed when the worker ends, and the worker to have small
// pages; programs may not take that back.
Code plain_prctl() {
  Code code;
  for (const auto& [option, value] :
       {std::pair{PR_SET_PDEATHSIG, SIGKILL}, {PR_SET_THP_DISABLE, 1}}) {
    const Code only{
        load_argument(0),      jump(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(option), 0, 4),
        load_argument(1),      jump(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(value), 1, 0),
        answer(refuse(EPERM)), answer(kAllow)};
    code.insert(code.end(), only.begin(), only.end());
  }
  constexpr uint32_t kSetVma = 0x53564d41;
  Code names = allow_only(0, {PR_SET_NAME, PR_GET_NAME, kSetVma}, EPERM);
  code.insert(code.end(), names.begin(), names.end());
  return code;
}

Code plain_fcntl() {
  Code code{load_argument(1), jump(BPF_JMP | BPF_JEQ | BPF_K, F_SETLK, 1, 0),
            jump(BPF_JMP | BPF_JEQ | BPF_K, F_SETLKW, 0, 1), answer(kNoEffect)};
  Code others =
      allow_only(1, {F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD, F_DUPFD_CLOEXEC, F_GETLK}, EPERM);
  code.insert(code.end(), others.begin(), others.end());
  return code;
}

// The path is not NULL, and the flags do not say that it may be empty.
Code by_path_only() {
  return {load_argument(1),
          jump(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
          load_argument_high(1),
          jump(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
          answer(refuse(EPERM)),
          load_argument(3),
          jump(BPF_JMP | BPF_JSET | BPF_K, AT_EMPTY_PATH, 0, 1),
          answer(refuse(EPERM)),
          answer(kAllow)};
}

Code rule_code(Rule rule, bool own_pid_namespace) {
  switch (rule) {
    case Rule::kAllow:
      return {answer(kAllow)};
    case Rule::kViolation:
      return {answer(kTrap)};
    case Rule::kNoSuchCall:
      return {answer(refuse(ENOSYS))};
    case Rule::kThreadsOnly:
      return threads_only(own_pid_namespace);
    case Rule::kNoExecMemory:
      return deny_bits(2, PROT_EXEC, refuse(EPERM));
    case Rule::kFileCodeOnly:
      return countable_memory(file_code_only());
    case Rule::kOwnSignals:
      return deny_values(0, {SIGSYS, SIGXFSZ, SIGABRT}, EINVAL);
    case Rule::kNoAddress:
      return no_address();
    case Rule::kUnixPair:
      return allow_only(0, {AF_UNIX}, EPERM);
    case Rule::kPlainIoctl:
      return allow_only(1, {TCGETS, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX, TIOCGWINSZ}, ENOTTY);
    case Rule::kPlainFcntl:
      return plain_fcntl();
    case Rule::kPlainPrctl:
      return plain_prctl();
    case Rule::kInsideOnly:
      return {answer(own_pid_namespace ? kAllow : refuse(EPERM))};
    case Rule::kNoLock:
      return {answer(kNoEffect)};
    case Rule::kOwnLimits:
      return allow_only(0, {0}, EPERM);
    case Rule::kByPathOnly:
      return by_path_only();
    case Rule::kWholeRange:
      return allow_only(1, {0}, EOPNOTSUPP);
  }
  return {answer(kTrap)};
}

// Goes on with `code` if argument i is `value`, else with `otherwise`.
Code if_argument_is(int i, uint64_t value, const Code& code, const Code& otherwise) {
  const auto size = static_cast<uint8_t>(code.size());
  Code result{load_argument(i),
              jump(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(value), 0,
                   static_cast<uint8_t>(size + 2)),
              load_argument_high(i),
              jump(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(value >> 32), 0, size)};
  result.insert(result.end(), code.begin(), code.end());
  result.insert(result.end(), otherwise.begin(), otherwise.end());
  return result;
}

// What a C or C++ program may do: no process, no other program. That it makes memory executable
// means nothing for machine code.
Code native_code(const SyscallRule& rule, uint64_t secret, uint32_t violation) {
  if (rule.name == "clone")
    return if_argument_is(4, secret, {answer(kAllow)}, threads_only(true, violation));
  if (rule.name == "execveat")
    return if_argument_is(5, secret, {answer(kAllow)}, {answer(violation)});
  switch (rule.rule) {
    case Rule::kViolation:
      return {answer(violation)};
    case Rule::kFileCodeOnly:
      return countable_memory({answer(kAllow)});
    case Rule::kNoExecMemory:
    case Rule::kOwnSignals:
      return {answer(kAllow)};
    case Rule::kPlainIoctl:
      return allow_only(1, {TCGETS, FIONREAD, TIOCGWINSZ, SECCOMP_IOCTL_NOTIF_RECV}, ENOTTY);
    default:
      return rule_code(rule.rule, true);
  }
}

// The compiler's driver starts processes. What only an escape needs is refused, too.
Code compiler_code(const SyscallRule& rule) {
  if (rule.name == "execve") return {answer(kAllow)};
  if (rule.name == "clone") {
    Code code = threads_only(true, refuse(EPERM));  // any process, but no namespaces
    code.back() = answer(kAllow);
    return code;
  }
  if (rule.rule == Rule::kViolation) return {answer(refuse(EPERM))};
  return native_code(rule, 0, refuse(EPERM));
}

struct Entry {
  uint32_t number;
  Code code;
};

// A binary search over the sorted entries: about seven comparisons for any of 250 calls.
Code search_tree(const std::vector<Entry>& entries, size_t first, size_t last) {
  if (last - first == 1) {
    Code code{jump(BPF_JMP | BPF_JEQ | BPF_K, entries[first].number, 1, 0), answer(refuse(EPERM))};
    code.insert(code.end(), entries[first].code.begin(), entries[first].code.end());
    return code;
  }
  size_t middle = (first + last) / 2;
  Code left = search_tree(entries, first, middle);
  Code right = search_tree(entries, middle, last);
  Code code;
  if (left.size() <= 255) {
    code.push_back(jump(BPF_JMP | BPF_JGE | BPF_K, entries[middle].number,
                        static_cast<uint8_t>(left.size()), 0));
  } else {
    // A conditional jump reaches 255 instructions, an unconditional one any number.
    code.push_back(jump(BPF_JMP | BPF_JGE | BPF_K, entries[middle].number, 0, 1));
    code.push_back(statement(BPF_JMP | BPF_JA, static_cast<uint32_t>(left.size())));
  }
  code.insert(code.end(), left.begin(), left.end());
  code.insert(code.end(), right.begin(), right.end());
  return code;
}

// The whole filter; a call of another architecture gets `foreign`.
Code filter_of(std::vector<Entry> entries, uint32_t foreign) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.number < b.number; });
  Code code{
      statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      jump(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0),
      answer(foreign),
      statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
  };
#if defined(__x86_64__)
  // x32 calls share the architecture and set this bit.
  code.push_back(jump(BPF_JMP | BPF_JSET | BPF_K, 0x40000000, 0, 1));
  code.push_back(answer(foreign));
#endif
  Code tree = search_tree(entries, 0, entries.size());
  code.insert(code.end(), tree.begin(), tree.end());
  return code;
}

// The calls that change a path, refused where no mount namespace confines them.
bool changes_files(std::string_view name) {
  constexpr std::array kNames{
      std::string_view("creat"),     std::string_view("rename"),    std::string_view("renameat"),
      std::string_view("renameat2"), std::string_view("mkdir"),     std::string_view("mkdirat"),
      std::string_view("rmdir"),     std::string_view("unlink"),    std::string_view("unlinkat"),
      std::string_view("symlink"),   std::string_view("symlinkat"), std::string_view("link"),
      std::string_view("linkat"),    std::string_view("truncate"),  std::string_view("chmod"),
      std::string_view("fchmodat"),  std::string_view("utimensat"), std::string_view("utimes")};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

int* g_violation = nullptr;

[[noreturn]] void end_now(int status) {
  while (true) syscall(SYS_exit_group, status);
}

void on_signal(int number, siginfo_t* info, void* /*context*/) {
  if (number == SIGSYS && g_violation != nullptr) {
    *g_violation = info->si_syscall;
    end_now(kExitViolation);
  }
  // The first process of a pid namespace is not ended by these signals' default actions.
  end_now(number == SIGXFSZ ? kExitOutputLimit : kExitAborted);
}

}  // namespace

Code build_filter(bool own_pid_namespace, bool read_only_files) {
  std::vector<Entry> entries;
  for (const SyscallRule& rule : syscall_rules()) {
    Code code = rule_code(rule.rule, own_pid_namespace);
    if (read_only_files) {
      constexpr uint32_t kWriting = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC;
      if (rule.name == "open") code = deny_bits(1, kWriting, refuse(EACCES));
      if (rule.name == "openat") code = deny_bits(2, kWriting, refuse(EACCES));
      if (changes_files(rule.name)) code = {answer(refuse(EACCES))};
    }
    entries.push_back({static_cast<uint32_t>(rule.number), std::move(code)});
  }
  return filter_of(std::move(entries), kTrap);
}

Code build_native_filter(Guest guest, uint64_t secret, bool listened) {
  const uint32_t violation = listened ? SECCOMP_RET_USER_NOTIF : SECCOMP_RET_KILL_PROCESS;
  std::vector<Entry> entries;
  for (const SyscallRule& rule : syscall_rules())
    entries.push_back(
        {static_cast<uint32_t>(rule.number),
         guest == Guest::kCompiler ? compiler_code(rule) : native_code(rule, secret, violation)});
#if defined(__x86_64__)
  if (guest == Guest::kCompiler)
    for (const uint32_t number : {__NR_fork, __NR_vfork})
      entries.push_back({number, {answer(kAllow)}});
#endif
  return filter_of(std::move(entries), SECCOMP_RET_KILL_PROCESS);
}

void install_filter(const Code& filter) {
  sock_fprog program{static_cast<unsigned short>(filter.size()),
                     const_cast<sock_filter*>(filter.data())};
  checked(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
  checked(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "install the seccomp filter");
}

int install_listened_filter(const Code& filter) {
  sock_fprog program{static_cast<unsigned short>(filter.size()),
                     const_cast<sock_filter*>(filter.data())};
  checked(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
  return static_cast<int>(
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
}

void report_violations_to(int* violation) {
  g_violation = violation;
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigfillset(&action.sa_mask);
  for (int number : {SIGSYS, SIGXFSZ, SIGABRT})
    checked(sigaction(number, &action, nullptr), "sigaction");
}

}  // namespace stepcoder
