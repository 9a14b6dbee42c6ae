// See start.h.
#include "native/start.h"

#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "guest/child.h"
#include "wire/protocol.h"
#include "worker/seccomp.h"

namespace stepcoder::native {
namespace {

uint64_t g_secret = 0;
bool g_listened = false;

constexpr int64_t kSecond = 1'000'000'000;

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

struct Start {
  Guest guest;
  char** argv;
  char** environment;
  int channel;
  int error = 0;
};

bool limit(__rlimit_resource_t resource, rlim_t soft, rlim_t hard) {
  const rlimit value{soft, hard};
  return setrlimit(resource, &value) == 0;
}

// Runs on the memory of the child, which waits until this process has become another program.
int become_program(void* data) {
  Start& start = *static_cast<Start*>(data);
  const bool compiles = start.guest == Guest::kCompiler;
  for (const int fd : {kChannelFd, kViolationsFd, kBinaryFd}) fcntl(fd, F_SETFD, FD_CLOEXEC);
  // The interpreter ignores these two. Who talks goes on, and says what it means, when the other
  // side has left.
  if (start.channel < 0) signal(SIGPIPE, SIG_DFL);
  signal(SIGXFSZ, SIG_DFL);
  // The driver's processes each have the time. SIGXCPU, which comes first, names the reason.
  const ControlMessage& limits = child::limits();
  const auto cpu_s = static_cast<rlim_t>((limits.cpu_ns + kSecond - 1) / kSecond);
  // The stack is memory like any other. Mostly unlimited: a thread then has a small one.
  rlimit stack{};
  bool done = getrlimit(RLIMIT_STACK, &stack) == 0 &&
              limit(RLIMIT_STACK, stack.rlim_max, stack.rlim_max) &&
              limit(RLIMIT_AS, limits.reserved_bytes, limits.reserved_bytes) &&
              limit(RLIMIT_FSIZE, limits.output_bytes + 1, limits.output_bytes + 1) &&
              (!compiles || limit(RLIMIT_CPU, cpu_s, cpu_s + 1));
  if (start.channel >= 0) done = done && dup2(start.channel, 0) == 0 && dup2(start.channel, 1) == 1;
  if (compiles) done = done && dup2(2, 1) == 1;
  if (done && compiles) execve(start.argv[0], start.argv, start.environment);
  if (done && !compiles)
    syscall(SYS_execveat, kBinaryFd, "", start.argv, start.environment, AT_EMPTY_PATH, g_secret);
  start.error = errno;
  _exit(kExitSetupFailed);
}

// Waits for the program's end, and ends it at a violation or when its CPU time is over.
void supervise(pid_t pid, int pidfd, int64_t cpu_ns) {
  clockid_t cpu_clock{};
  checked(-clock_getcpuclockid(pid, &cpu_clock), "the program's clock");
  while (true) {
    // In steps, since the time of several threads passes faster.
    const int64_t left = std::max<int64_t>(1'000'000, (cpu_ns - now_ns(cpu_clock)) / 8);
    const timespec timeout{left / kSecond, left % kSecond};
    pollfd waits[2]{{pidfd, POLLIN, 0}, {g_listened ? kViolationsFd : -1, POLLIN, 0}};
    checked(ppoll(waits, 2, &timeout, nullptr), "poll");
    if (waits[0].revents != 0) return;
    if (waits[1].revents != 0) {
      seccomp_notif violation{};
      if (ioctl(kViolationsFd, SECCOMP_IOCTL_NOTIF_RECV, &violation) != 0) continue;
      child::header().violation = violation.data.nr;
    } else if (now_ns(cpu_clock) >= cpu_ns) {
      child::header().native_killed_for = KilledFor::kCpu;
    } else {
      continue;
    }
    kill(pid, SIGKILL);
    return;
  }
}

}  // namespace

UniqueFd install_filter_of(Guest guest) {
  checked(getrandom(&g_secret, sizeof g_secret, 0), "a random number");
  if (guest == Guest::kNative) {
    UniqueFd violations(install_listened_filter(build_native_filter(guest, g_secret, true)));
    g_listened = static_cast<bool>(violations);
    if (g_listened) return violations;
  }
  install_filter(build_native_filter(guest, g_secret, false));
  return {};
}

int run(Guest guest, const std::vector<std::string>& argv,
        const std::vector<std::string>& environment, int channel) {
  const std::vector<char*> arguments = pointers(argv);
  const std::vector<char*> variables = pointers(environment);
  Start start{guest, const_cast<char**>(arguments.data()), const_cast<char**>(variables.data()),
              channel};
  alignas(16) static char stack[64 << 10];
  int pidfd = -1;
  auto* secret = reinterpret_cast<void*>(g_secret);  // in the argument of flags that are not there
  const pid_t pid =
      checked(clone(become_program, stack + sizeof stack,
                    CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &start, &pidfd, secret, secret),
              "start a process");
  BoardHeader& header = child::header();
  if (start.error == EACCES || start.error == EPERM) {
    errno = start.error;
    throw system_error("start the program");
  }
  header.until_set_up = 0;  // from here on whatever happens is the program's doing
  child::enter_phase(kPhaseFirstTest);
  supervise(pid, pidfd, child::limits().cpu_ns);
  int status = 0;
  rusage own{};
  rusage usage{};
  getrusage(RUSAGE_SELF, &own);
  checked(wait4(pid, &status, 0, &usage), "wait for the program");
  // Its peak is at least that of the process whose memory it began on.
  if (usage.ru_maxrss > own.ru_maxrss &&
      static_cast<uint64_t>(usage.ru_maxrss) * 1024 > child::limits().memory_bytes)
    header.native_killed_for = KilledFor::kMemory;
  header.native_wait_status = status;
  header.native_ended = 1;
  const bool ended_well =
      status == 0 && header.violation < 0 && header.native_killed_for == KilledFor::kNothing;
  if (ended_well) {
    auto* records =
        reinterpret_cast<Record*>(reinterpret_cast<std::byte*>(&header) + kRecordsOffset);
    records[1].outcome = Outcome::kValue;
    child::enter_phase(kPhaseFirstTest + 1);
  }
  return status;
}

}  // namespace stepcoder::native
