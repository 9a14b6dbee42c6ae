// See worker.h. The worker enforces its child's time limits from outside. The judge keeps a later
// deadline for the two of them.
#include "worker/worker.h"

#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "guest/child.h"
#include "native/start.h"
#include "wire/control.h"
#include "wire/fd.h"
#include "wire/protocol.h"
#include "worker/huge_pages.h"
#include "worker/prefault.h"
#include "worker/seccomp.h"

namespace stepcoder {
namespace {

// How long a run takes before the judge watches its memory.
constexpr int64_t kUnwatchedNs = 20'000'000;

// Notes the worker's own size. `statm` is /proc/self/statm, opened while /proc was visible.
void measure(const UniqueFd& statm, child::Shared& shared) {
  std::array<char, 64> text{};
  checked(pread(statm.get(), text.data(), text.size() - 1, 0), "read the size of this process");
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  char* rest = nullptr;
  shared.address_space_bytes = std::strtoull(text.data(), &rest, 10) * page;
  shared.resident_bytes = std::strtoull(rest, nullptr, 10) * page;
}

// Exhausts the allocators' free lists, so that a child's allocations land together on fresh pages.
// Each allocation in a gap between the worker's objects would cost the child the copy of a page.
void drain_free_lists() {
  malloc_trim(0);
  const auto end = reinterpret_cast<uintptr_t>(sbrk(0));
  constexpr size_t kLargest = size_t{1} << 18;
  for (size_t size = kLargest; size >= 16; size = size > 1024 ? size / 2 : size - 16)
    while (void* block = std::malloc(size)) {
      const auto address = reinterpret_cast<uintptr_t>(block);
      if (address + 8192 < end) continue;
      // A small block is kept: freed, it would go to a free list and not back to the heap's end.
      if (size > 1024) std::free(block);
      break;
    }
  // The interpreter's own allocator: pools of 16 KiB for each size up to 512 bytes.
  constexpr uintptr_t kPool = uintptr_t{16} << 10;
  for (size_t size = 16; size <= 512; size += 16) {
    for (int count = 0; count < 65536; ++count) {
      void* block = PyObject_Malloc(size);
      const uintptr_t offset = reinterpret_cast<uintptr_t>(block) % kPool;
      if (offset > 64) continue;  // not the first block of a pool
      PyObject_Free(block);
      break;
    }
  }
}

// The header of a tester's board, for the worker of the program that it tests; no child inherits
// it.
class TesterHeader {
 public:
  explicit TesterHeader(UniqueFd board) {  // closed once it is mapped
    if (!board) return;
    header_ = mmap(nullptr, sizeof(BoardHeader), PROT_READ, MAP_SHARED, board.get(), 0);
    if (header_ == MAP_FAILED) throw system_error("map the tester's board");
    checked(madvise(header_, sizeof(BoardHeader), MADV_DONTFORK), "keep a board from children");
  }
  ~TesterHeader() {
    if (header_ != nullptr) munmap(header_, sizeof(BoardHeader));
  }
  TesterHeader(const TesterHeader&) = delete;
  TesterHeader& operator=(const TesterHeader&) = delete;
  const BoardHeader* get() const { return static_cast<const BoardHeader*>(header_); }

 private:
  void* header_ = nullptr;
};

// How long the child's current phase has run. The child reports when a phase began. That time is
// clamped to the interval between the last update and now, and phases only go forward, over tests
// that have left their records. Those records are then kept, so what the program later writes in
// their place counts for nothing: the time of one test cannot be spent on an earlier one. A program
// that serves a tester leaves no records; its phase is never ahead of the tester's.
class PhaseClock {
 public:
  // Both clocks of a child that has waited for its run begin now.
  PhaseClock(std::byte* board, const BoardHeader* tester, const ControlMessage& message,
             clockid_t cpu_clock)
      : board_(board),
        tester_(tester),
        message_(message),
        cpu_clock_(cpu_clock),
        wall_start_(now_ns()),
        cpu_start_(now_ns(cpu_clock)),
        last_wall_(wall_start_),
        last_cpu_(cpu_start_),
        cpu_(cpu_start_) {}

  void update() {
    const int64_t wall = now_ns();
    cpu_ = now_ns(cpu_clock_);
    const BoardHeader& header = *reinterpret_cast<const BoardHeader*>(board_);
    const uint32_t claimed = __atomic_load_n(&header.phase, __ATOMIC_ACQUIRE);
    if (const uint32_t reached = std::min(claimed, last_phase()); reached > phase_) {
      phase_ = reached;
      const bool is_claimed = reached == claimed;  // else its times are those of another phase
      wall_start_ = std::clamp(is_claimed ? header.phase_wall_ns : 0, last_wall_, wall);
      cpu_start_ = std::clamp(is_claimed ? header.phase_cpu_ns : 0, last_cpu_, cpu_);
      keep_records();
    }
    last_wall_ = wall;
    last_cpu_ = cpu_;
  }
  // Once the child has ended: puts the kept records back, and returns the phase that it ended in.
  uint32_t finish() {
    std::copy(records_.begin(), records_.end(), records());
    std::copy(values_.begin(), values_.end(), board_ + message_.arena_offset);
    const uint32_t claimed = reinterpret_cast<const BoardHeader*>(board_)->phase;
    return std::max(phase_, std::min(claimed, last_phase()));
  }
  int64_t cpu_start() const { return cpu_start_; }
  int64_t wall_spent() const { return last_wall_ - wall_start_; }
  int64_t cpu_spent() const { return cpu_ - cpu_start_; }

 private:
  Record* records() const { return reinterpret_cast<Record*>(board_ + kRecordsOffset); }

  // The phase of the first test without a record.
  uint32_t last_phase() const {
    if (tester_ != nullptr) return __atomic_load_n(&tester_->phase, __ATOMIC_ACQUIRE);
    uint32_t test = message_.first_test;
    while (test < message_.test_count && records()[test + 1].outcome != Outcome::kNone) ++test;
    return kPhaseFirstTest + test;
  }

  void keep_records() {
    if (tester_ != nullptr || phase_ <= kPhaseFirstTest) return;
    records_.assign(records(), records() + (phase_ - kPhaseFirstTest) + 1);
    uint64_t end = 0;
    for (const Record& record : records_)
      if (record.length <= kArenaBytes && record.offset <= kArenaBytes - record.length)
        end = std::max(end, record.offset + record.length);
    const std::byte* arena = board_ + message_.arena_offset;
    values_.assign(arena, arena + end);
  }

  std::byte* board_;
  const BoardHeader* tester_;
  const ControlMessage& message_;
  clockid_t cpu_clock_;
  std::vector<Record> records_;    // of loading and of the tests before the phase
  std::vector<std::byte> values_;  // what they returned
  uint32_t phase_ = kPhaseSetup;
  int64_t wall_start_;
  int64_t cpu_start_;
  int64_t last_wall_;
  int64_t last_cpu_;
  int64_t cpu_;
};

// Removes one entry of a folder; false if it is a folder that is not empty.
bool remove(int folder, const char* name) {
  return unlinkat(folder, name, 0) == 0 || unlinkat(folder, name, AT_REMOVEDIR) == 0;
}

// Removes whatever lies in a folder. It enters the folders in it one by one instead of naming their
// paths, which can be longer than a path may be, and opens those that give nobody any rights.
void remove_all_in(const std::string& path) {
  UniqueFd folder(checked(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), "open scratch"));
  for (int depth = 0; depth >= 0;) {
    const std::unique_ptr<DIR, int (*)(DIR*)> entries(fdopendir(dup(folder.get())), closedir);
    if (entries == nullptr) throw system_error("list the scratch folder");
    std::string inner = "..";
    while (const dirent* entry = readdir(entries.get())) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != ".." && !remove(folder.get(), entry->d_name)) inner = name;
    }
    depth += inner == ".." ? -1 : 1;
    if (inner != "..") fchmodat(folder.get(), inner.c_str(), 0700, 0);
    if (depth >= 0)
      folder = UniqueFd(checked(
          openat(folder.get(), inner.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC),
          "enter a folder in scratch"));
  }
}

class Worker {
 public:
  Worker(const IsolationConfig& config, PyObject* run, PyObject* rehearse, PyObject* rehearse_small)
      : config_(config), run_(run) {
    if (config.guest == Guest::kPython) huge_pages::move_code();
    void* board = mmap(nullptr, kBoardBytes, PROT_READ | PROT_WRITE, MAP_SHARED, kBoardFd, 0);
    if (board == MAP_FAILED) throw system_error("map the board");
    shared_.board = board;
    // Before isolate(): /proc is still visible.
    checked(syscall(SYS_close_range, kFirstFreeFd, ~0U, 0), "close inherited descriptors");
    const UniqueFd statm(checked(open("/proc/self/statm", O_RDONLY | O_CLOEXEC), "open statm"));
    isolation_ = isolate(config);
    const bool own_pids = isolation_.has(kPidNamespace);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    checked(sigprocmask(SIG_BLOCK, &signals, nullptr), "sigprocmask");
    signals_ = UniqueFd(checked(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd"));
    struct stat scratch{};
    if (isolation_.has(kMountNamespace) && stat(config.scratch.c_str(), &scratch) == 0)
      empty_scratch_size_ = scratch.st_size;
    if (config.guest != Guest::kPython) {
      if (!own_pids || !isolation_.has(kMountNamespace))
        throw std::runtime_error(
            "C and C++ programs need a file system and a pid namespace of their own, which this "
            "machine refuses");
      violations_ = native::install_filter_of(config.guest);
      shared_.native = true;
      shared_.violations_fd = violations_.get();
      measure(statm, shared_);
      return;
    }
    const auto filter = build_filter(own_pids, !isolation_.has(kMountNamespace));
    report_violations_to(&static_cast<BoardHeader*>(board)->violation);
    if (own_pids)
      install_filter(filter);  // once; children inherit it
    else
      shared_.filter = filter;
    child::rehearse(shared_, rehearse);
    drain_free_lists();
    huge_pages::collapse_data();
    // Of a large page all would count as used. Children inherit this.
    checked(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "have small pages");
    // Only now, when memory reserved for the interpreter's objects has been given back.
    measure(statm, shared_);
    learn_dirty_pages(rehearse_small);
  }

  void serve() {
    prctl(PR_SET_NAME, "sc-worker");
    reset_files();
    clean_scratch();
    const Hello hello{isolation_.missing_layers};
    checked(send(kControlFd, &hello, sizeof hello, MSG_NOSIGNAL), "say hello");
    make_child_ready();
    while (auto received = receive_control(kControlFd)) {
      if (received->message.command != Command::kRun) continue;  // a kill that came too late
      if (!run_one(*received)) break;
    }
    if (ready_child_ < 0) return;
    kill(ready_child_, SIGKILL);
    waitpid(ready_child_, nullptr, 0);
  }

 private:
  // The child's pid, 0 in the child.
  long fork_child() const {
    const unsigned long spaces = isolation_.has(kPidNamespace) ? CLONE_NEWPID : 0;
    return checked(spaces != 0 ? syscall(SYS_clone, spaces | SIGCHLD, 0, 0, 0, 0) : fork(),
                   "fork a child");
  }

  // Notes which pages a smallest run writes to. The end of the board serves as shared memory.
  void learn_dirty_pages(PyObject* rehearse_small) {
    auto* dirty = reinterpret_cast<DirtyPages*>(static_cast<std::byte*>(shared_.board) +
                                                kBoardBytes - sizeof(DirtyPages));
    const long pid = fork_child();
    if (pid == 0)
      record_dirty_pages(
          huge_pages::data_ranges(), dirty,
          [](void* function) { PyObject_CallNoArgs(static_cast<PyObject*>(function)); },
          rehearse_small);
    waitpid(static_cast<pid_t>(pid), nullptr, 0);
    shared_.dirty_pages.assign(dirty->pages, dirty->pages + dirty->count);
  }

  // Forks the child of the next run ahead of time, so that no run waits for a fork. `current` is
  // the current run, whose descriptors the new child must not hold open.
  void make_child_ready(Received* current = nullptr) {
    std::array<int, 2> pair{};
    checked(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()), "socketpair");
    to_child_ = UniqueFd(pair[0]);
    const UniqueFd from_worker(pair[1]);
    const long pid = fork_child();
    if (pid == 0) {
      to_child_.reset();  // the worker's end alone: the child sees the worker go
      if (current != nullptr) *current = {};
      child::run(shared_, from_worker.get(), run_);
    }
    ready_child_ = static_cast<pid_t>(pid);
  }

  // The channel stays open here until the child has ended, so that the process at its other end
  // does not see it close before the judge has a report of why.
  bool run_one(Received& current) {
    const ControlMessage& message = current.message;
    const TesterHeader tester(std::move(current.tester_board));
    // There may have been no room for the child, or something has ended it while it waited.
    if (ready_child_ < 0 || waitpid(ready_child_, nullptr, WNOHANG) != 0) make_child_ready();
    const pid_t pid = ready_child_;
    clockid_t cpu_clock{};
    checked(-clock_getcpuclockid(pid, &cpu_clock), "the child's clock");
    const int64_t start = now_ns();
    PhaseClock clock(static_cast<std::byte*>(shared_.board), tester.get(), message, cpu_clock);
    if (!send_control(to_child_.get(), message, current.channel.get(), -1, current.binary.get()))
      throw system_error("tell a child to run");
    ready_child_ = -1;
    try {
      make_child_ready(&current);
    } catch (const std::system_error&) {
      // The program may already have taken all the processes or memory that there are.
    }
    Report report;
    const int64_t cpu_before = clock.cpu_start();
    if (!supervise(pid, message, clock, report)) return false;
    report.cpu_ns = std::max<int64_t>(0, report.cpu_ns - cpu_before);
    report.wall_ns = now_ns() - start;
    report.phase = clock.finish();
    reset_files();
    if (send(kControlFd, &report, sizeof report, MSG_NOSIGNAL) != sizeof report) return false;
    clean_scratch();
    return true;
  }

  // Waits for the child and ends it where it exceeds a limit. False if the judge is gone.
  bool supervise(pid_t pid, const ControlMessage& message, PhaseClock& clock, Report& report) {
    pollfd waits[2]{{signals_.get(), POLLIN, 0}, {kControlFd, POLLIN, 0}};
    bool judge_is_here = true;
    bool is_watched = false;
    // What machine code uses is its own. Of its compiler each process has a limit of addresses.
    const uint64_t most_bytes =
        message.memory_bytes + (shared_.native ? 0 : shared_.resident_bytes);
    int64_t left = std::min({message.wall_ns, message.cpu_ns, kUnwatchedNs});
    while (true) {
      const bool killed = report.killed_for != KilledFor::kNothing || !judge_is_here;
      timespec timeout{left / 1'000'000'000, left % 1'000'000'000};
      checked(ppoll(waits, judge_is_here ? 2 : 1, killed ? nullptr : &timeout, nullptr), "poll");
      if (waits[0].revents != 0) {
        signalfd_siginfo info{};
        while (read(signals_.get(), &info, sizeof info) > 0) continue;
        rusage usage{};
        if (wait4(pid, &report.wait_status, WNOHANG, &usage) == pid) {
          report.cpu_ns = nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime);
          report.peak_memory_bytes = int64_t{usage.ru_maxrss} * 1024;
          const bool is_over = static_cast<uint64_t>(report.peak_memory_bytes) > most_bytes;
          if (is_over && !shared_.native && report.killed_for != KilledFor::kCancelled)
            report.killed_for = KilledFor::kMemory;
          return judge_is_here;
        }
      }
      if (judge_is_here && waits[1].revents != 0) {
        auto received = receive_control(kControlFd);
        judge_is_here = received.has_value();
        report.killed_for = judge_is_here && received->message.command == Command::kKillForMemory
                                ? KilledFor::kMemory
                                : KilledFor::kCancelled;
        kill(pid, SIGKILL);
        continue;
      }
      if (killed) continue;
      clock.update();
      if (clock.cpu_spent() >= message.cpu_ns)
        report.killed_for = KilledFor::kCpu;
      else if (clock.wall_spent() >= message.wall_ns)
        report.killed_for = KilledFor::kWall;
      if (report.killed_for != KilledFor::kNothing) {
        kill(pid, SIGKILL);
      } else if (!is_watched) {
        is_watched = true;
        const Running running{pid, 0, most_bytes};
        send(kControlFd, &running, sizeof running, MSG_NOSIGNAL);
      }
      // CPU time passes no faster than wall time, threads of extension code apart.
      left = std::max<int64_t>(1'000'000, std::min(message.wall_ns - clock.wall_spent(),
                                                   message.cpu_ns - clock.cpu_spent()));
    }
  }

  // The judge writes to these three, and every run has them open: sets back where they stand and
  // their flags (O_APPEND, O_NONBLOCK).
  static void reset_files() {
    for (int fd : {0, 1, 2}) {
      checked(lseek(fd, 0, SEEK_SET), "rewind");
      checked(fcntl(fd, F_SETFL, 0), "reset a file's flags");
    }
  }

  static int64_t nanoseconds(const timeval& time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + int64_t{time.tv_usec} * 1'000;
  }

  // Empties the scratch folder for the next run. A tmpfs folder's size tells whether it is empty.
  void clean_scratch() {
    if (empty_scratch_size_ < 0) return;
    struct stat info{};
    checked(stat(config_.scratch.c_str(), &info), "look at the scratch folder");
    // The program may own the folder and have changed its mode and its times.
    if ((info.st_mode & 07777) != 0777)
      checked(chmod(config_.scratch.c_str(), 0777), "open the scratch folder");
    if (info.st_size != empty_scratch_size_) remove_all_in(config_.scratch);
    constexpr timespec kNeverUsed[2]{};
    if (info.st_atim.tv_sec != 0 || info.st_mtim.tv_sec != 0)
      utimensat(AT_FDCWD, config_.scratch.c_str(), kNeverUsed, 0);
  }

  const IsolationConfig& config_;
  PyObject* run_;
  child::Shared shared_;
  Isolation isolation_;
  UniqueFd signals_;
  UniqueFd violations_;
  UniqueFd to_child_;
  pid_t ready_child_ = -1;
  off_t empty_scratch_size_ = -1;
};

}  // namespace

void serve(const IsolationConfig& config, PyObject* run, PyObject* rehearse,
           PyObject* rehearse_small) {
  Worker(config, run, rehearse, rehearse_small).serve();
}

}  // namespace stepcoder
