// See worker_process.h.
#include "host/worker_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>

#include "wire/control.h"
#include "wire/line_seal.h"
#include "wire/tokens.h"

namespace stepcoder {
namespace {

// Above the numbers of a worker's descriptors, so that no dup2 overwrites the source of another.
constexpr int kLowestFd = 16;

UniqueFd with_high_number(UniqueFd fd) {
  return UniqueFd(checked(fcntl(fd.get(), F_DUPFD_CLOEXEC, kLowestFd), "dup a descriptor"));
}

UniqueFd memory_file(const char* name) {
  return with_high_number(
      UniqueFd(checked(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), "make a memory file")));
}

void write_from_start(const UniqueFd& file, const std::string& content) {
  size_t done = 0;
  while (done < content.size())
    done += static_cast<size_t>(checked(
        pwrite(file.get(), content.data() + done, content.size() - done, static_cast<off_t>(done)),
        "write a memory file"));
}

uint64_t size_of(const UniqueFd& file) {
  struct stat info{};
  checked(fstat(file.get(), &info), "fstat");
  return static_cast<uint64_t>(info.st_size);
}

void replace_content(const UniqueFd& file, const std::string& content) {
  if (size_of(file) != content.size())
    checked(ftruncate(file.get(), static_cast<off_t>(content.size())), "size a memory file");
  write_from_start(file, content);
}

std::string content(const UniqueFd& file, uint64_t offset, uint64_t size) {
  std::string text(size, '\0');
  size_t done = 0;
  while (done < text.size()) {
    ssize_t got = pread(file.get(), text.data() + done, text.size() - done,
                        static_cast<off_t>(offset + done));
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

constexpr uint64_t kStderrTail = uint64_t{64} << 10;

std::string tail(const UniqueFd& file) {
  const uint64_t size = size_of(file);
  const uint64_t kept = std::min(size, kStderrTail);
  return content(file, size - kept, kept);
}

struct Layout {
  uint32_t bitmap_count;
  uint64_t bitmap_bytes;
  uint64_t bitmaps_offset;
  uint64_t arena_offset;
};

constexpr uint64_t rounded_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

Layout layout_of(const Job& job) {
  Layout layout{};
  layout.bitmap_bytes = rounded_up(std::min(job.line_count, kMaxTracedLines) / 8 + 1, 8);
  layout.bitmap_count = tests_per_run(job) + 1;
  // A huge program with very many tests shares one bitmap among them.
  if (layout.bitmap_bytes * layout.bitmap_count > kMaxBitmapBytes) layout.bitmap_count = 1;
  layout.bitmaps_offset = seals_offset(tests_per_run(job)) + sizeof(uint64_t) * layout.bitmap_count;
  layout.arena_offset =
      rounded_up(layout.bitmaps_offset + layout.bitmap_bytes * layout.bitmap_count, 4096);
  return layout;
}

// What a run may use beside the memory of its own limit and its output: the board, the scratch
// folder, and what the kernel keeps for it (page tables, stacks of threads, pipes, sockets).
constexpr uint64_t kOutsideLimits = kBoardBytes + (uint64_t{48} << 20);

static_assert(kRecordsOffset + (sizeof(Record) + sizeof(uint64_t)) * (kMaxTests + 1) +
                  kMaxBitmapBytes + 4096 + kArenaBytes <=
              kBoardBytes);

// Records may overlap, if the program has written them: `room` is what all may hold together.
Finding copy_finding(const std::byte* board, const Layout& layout, uint32_t index, uint64_t& room) {
  Record record;
  std::memcpy(&record, board + kRecordsOffset + sizeof(Record) * index, sizeof record);
  Finding finding;
  if (record.outcome > Outcome::kTooLarge) return finding;
  finding.outcome = record.outcome;
  finding.cpu_ns = record.cpu_ns;
  finding.wall_ns = record.wall_ns;
  const bool inside = record.offset <= kArenaBytes && record.length <= kArenaBytes - record.offset;
  if (inside && record.length > 0 && record.length <= room) {
    room -= record.length;
    finding.payload.assign(
        reinterpret_cast<const char*>(board + layout.arena_offset + record.offset), record.length);
  }
  return finding;
}

// The content of a file of /proc, "" if there is none.
std::string proc_file(const std::string& path) {
  const UniqueFd file(open(("/proc/" + path).c_str(), O_RDONLY | O_CLOEXEC));
  return file ? content(file, 0, 256) : std::string();
}

// The memory that a process uses, 0 if there is no such process.
uint64_t resident_bytes(pid_t pid) {
  const std::string text = proc_file(std::to_string(pid) + "/statm");  // size, resident, ...
  const size_t second = text.find(' ');
  if (second == std::string::npos) return 0;
  return std::strtoull(text.c_str() + second, nullptr, 10) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

std::string children_file(pid_t pid) {
  return std::to_string(pid) + "/task/" + std::to_string(pid) + "/children";
}

// The first child of a process, 0 if it has none.
pid_t child_of(pid_t pid) {
  return static_cast<pid_t>(std::atoi(proc_file(children_file(pid)).c_str()));
}

// Whether this process sees what its worker's runs use. If not, what they reserve is counted.
bool can_watch(pid_t worker) {
  return resident_bytes(worker) > 0 &&
         access(("/proc/" + children_file(worker)).c_str(), R_OK) == 0;
}

}  // namespace

UniqueFd sealed_file(const char* name, const std::string& content) {
  UniqueFd file = memory_file(name);
  write_from_start(file, content);
  checked(fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL),
          "seal a memory file");
  return file;
}

WorkerProcess::WorkerProcess(const std::vector<std::string>& argv, const std::string& preload,
                             const CgroupParent& cgroups)
    : secret_seed_(uint64_t{std::random_device{}()} << 32 | std::random_device{}()),
      owner_(getpid()),
      cgroup_(cgroups) {
  std::array<int, 2> pair{};
  checked(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()), "socketpair");
  control_ = with_high_number(UniqueFd(pair[0]));
  const UniqueFd theirs = with_high_number(UniqueFd(pair[1]));
  request_ = memory_file("stepcoder-request");
  board_file_ = memory_file("stepcoder-board");
  stdin_ = memory_file("stepcoder-stdin");
  stdout_ = memory_file("stepcoder-stdout");
  stderr_ = memory_file("stepcoder-stderr");
  checked(ftruncate(board_file_.get(), static_cast<off_t>(kBoardBytes)), "size the board");
  // A board that could shrink could kill the judge with SIGBUS.
  checked(fcntl(board_file_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
          "seal the board");
  void* board =
      mmap(nullptr, kBoardBytes, PROT_READ | PROT_WRITE, MAP_SHARED, board_file_.get(), 0);
  if (board == MAP_FAILED) throw system_error("map the board");
  board_ = static_cast<std::byte*>(board);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const std::array<std::pair<const UniqueFd*, int>, 6> descriptors{{{&stdin_, 0},
                                                                    {&stdout_, 1},
                                                                    {&stderr_, 2},
                                                                    {&theirs, kControlFd},
                                                                    {&request_, kRequestFd},
                                                                    {&board_file_, kBoardFd}}};
  for (const auto& [source, target] : descriptors)
    posix_spawn_file_actions_adddup2(&actions, source->get(), target);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // A session of its own: the terminal's Ctrl-C is for the judge. Default signals, none blocked.
  sigset_t all;
  sigset_t none;
  sigfillset(&all);
  sigemptyset(&none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  // Nothing of the caller's environment. A fixed hash seed makes the order of sets, and with it
  // verdicts, the same on every run. numpy's thread pools would keep the worker from forking.
  // Symbols are bound at once: otherwise every child would bind them, on its own copy of the page.
  std::array<std::string, 5> variables{"PYTHONHASHSEED=0", "OPENBLAS_NUM_THREADS=1",
                                       "OMP_NUM_THREADS=1", "LD_BIND_NOW=1",
                                       "LD_PRELOAD=" + preload};
  std::array<char*, 6> environment{variables[0].data(),
                                   variables[1].data(),
                                   variables[2].data(),
                                   variables[3].data(),
                                   preload.empty() ? nullptr : variables[4].data(),
                                   nullptr};
  const int error =
      posix_spawn(&pid_, arguments[0], &actions, &attributes, arguments.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    munmap(board_, kBoardBytes);
    throw std::system_error(error, std::generic_category(), "start " + argv[0]);
  }
  pidfd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  cgroup_.add(pid_);  // before it has used much memory; without a cgroup the rlimits hold alone
}

WorkerProcess::~WorkerProcess() {
  if (owner_ == getpid()) wait_or_kill();
  munmap(board_, kBoardBytes);
}

void WorkerProcess::wait_or_kill() {
  // A worker that sees the judge go ends its child and itself.
  shutdown(control_.get(), SHUT_RDWR);
  constexpr int kTimeoutMs = 500;
  pollfd end{pidfd_.get(), POLLIN, 0};
  if (!pidfd_ || poll(&end, 1, ready ? kTimeoutMs : 0) != 1) kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

bool WorkerProcess::begin(const Job& job, uint32_t first_test, bool as_tester, int channel,
                          int tester_board) {
  const std::string& request = as_tester ? job.tester_request : job.request;
  const bool has_tests = as_tester == (job.kind == JobKind::kPair) && !job.test_requests.empty();
  replace_content(request_, has_tests ? request + job.test_requests[first_test] : request);
  static const std::string kNothing;
  replace_content(stdin_, job.kind == JobKind::kStdin ? job.stdins[first_test] : kNothing);
  replace_content(stdout_, kNothing);
  replace_content(stderr_, kNothing);
  wipe_board();
  const Layout layout = layout_of(job);
  BoardHeader header;
  header.test_count = tests_per_run(job);
  header.bitmap_count = layout.bitmap_count;
  header.bitmap_bytes = layout.bitmap_bytes;
  header.bitmaps_offset = layout.bitmaps_offset;
  header.arena_offset = layout.arena_offset;
  header.first_test = job.run_for_each_test ? 0 : first_test;
  header.until_set_up = until_set_up_ = sip_hash(secret_seed_, ++secrets_drawn_);
  header.until_compiled = until_compiled_ = sip_hash(secret_seed_, ++secrets_drawn_);
  std::memcpy(board_, &header, sizeof header);

  ControlMessage message;
  message.test_count = tests_per_run(job);
  message.arena_offset = layout.arena_offset;
  message.line_count = std::min(job.line_count, kMaxTracedLines);
  message.first_test = header.first_test;
  message.cpu_ns = job.cpu_ns;
  message.wall_ns = job.wall_ns;
  message.memory_bytes = job.memory_bytes;
  message.output_bytes = job.output_bytes;
  if (as_tester) {  // it mostly waits for the program, whose own limits are reached first
    message.cpu_ns = 2 * job.cpu_ns + 10'000'000'000;
    message.wall_ns = job.wall_ns + 10'000'000'000;
    message.memory_bytes = std::max<uint64_t>(job.memory_bytes, uint64_t{1} << 30);
  }
  runs_native_ = is_native(job, as_tester);
  if (!can_be_watched_) can_be_watched_ = can_watch(pid_);
  const bool is_watched = *can_be_watched_ && job.runner != Runner::kCompiler;
  message.reserved_bytes = message.memory_bytes + (is_watched ? kUnusedBytes : 0);
  cgroup_.allow_memory(message.memory_bytes + 2 * message.output_bytes + kOutsideLimits);
  const auto& binary = as_tester ? job.tester_binary : job.binary;
  return send_control(control_.get(), message, channel, tester_board, binary ? binary->get() : -1);
}

// Clears the whole board, wherever the last run wrote. The first pages, which every run uses, are
// overwritten; giving a page back and getting it again would cost more.
void WorkerProcess::wipe_board() {
  constexpr off_t kKept = 64 << 10;
  const off_t hole = lseek(board_file_.get(), 0, SEEK_HOLE);
  const size_t used = static_cast<size_t>(std::clamp<off_t>(hole, 0, kKept));
  std::memset(board_, 0, used);
  const auto rest = static_cast<off_t>(used);
  if (lseek(board_file_.get(), rest, SEEK_DATA) < 0) return;  // no page beyond
  checked(fallocate(board_file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, rest,
                    static_cast<off_t>(kBoardBytes) - rest),
          "wipe the board");
}

bool WorkerProcess::request_kill(Command why) {
  ControlMessage message;
  message.command = why;
  return send(control_.get(), &message, sizeof message, MSG_NOSIGNAL) == sizeof message;
}

void WorkerProcess::watch(const Running& running) {
  running_ = running;
  next_look_ns = 0;
}

void WorkerProcess::look() {
  // No thread touches new memory faster than this, by far.
  constexpr uint64_t kBytesPerMs = uint64_t{4} << 20;
  next_look_ns = INT64_MAX;
  const uint64_t used = resident_bytes(runs_native_ ? child_of(running_.pid) : running_.pid);
  if (used > running_.most_bytes) {
    request_kill(Command::kKillForMemory);
    return;
  }
  const auto ms = std::clamp<uint64_t>((running_.most_bytes - used) / kBytesPerMs, 2, 100);
  next_look_ns = now_ns() + static_cast<int64_t>(ms) * 1'000'000;
}

RunResult WorkerProcess::collect(const Job& job, uint32_t first_test, bool as_tester,
                                 const Report& report) {
  const Layout layout = layout_of(job);
  next_look_ns = INT64_MAX;
  RunResult result;
  result.is_tester = as_tester;
  result.first_test = first_test;
  result.report = report;
  BoardHeader header;
  std::memcpy(&header, board_, sizeof header);
  result.is_native = is_native(job, as_tester);
  if (result.is_native && header.native_ended != 0) {
    result.report.wait_status = header.native_wait_status;
    if (report.killed_for == KilledFor::kNothing)
      result.report.killed_for = header.native_killed_for;
  }
  // The secrets tell how far the run has come at least; the rest is what it says.
  if (header.until_set_up == until_set_up_)
    result.report.phase = kPhaseSetup;
  else if (header.until_compiled == until_compiled_)
    result.report.phase = kPhaseCompile;
  else
    result.report.phase =
        std::clamp(report.phase, kPhaseLoad, kPhaseFirstTest + tests_per_run(job));
  // No program in machine code has the board; others end with this status.
  if (result.is_native ||
      (WIFEXITED(report.wait_status) && WEXITSTATUS(report.wait_status) == kExitViolation))
    result.violation = header.violation;
  uint64_t room = kArenaBytes;
  result.loading = copy_finding(board_, layout, 0, room);
  for (uint32_t i = 0; i < tests_per_run(job); ++i)
    result.tests.push_back(copy_finding(board_, layout, i + 1, room));
  for (uint32_t i = 0; i < layout.bitmap_count; ++i)
    result.bitmaps.emplace_back(
        reinterpret_cast<const char*>(board_ + layout.bitmaps_offset + i * layout.bitmap_bytes),
        layout.bitmap_bytes);
  result.tampered = !lines_are_sealed(tests_per_run(job), result);
  const uint64_t written = size_of(stdout_);
  result.output_exceeded = written > job.output_bytes || size_of(stderr_) > job.output_bytes;
  result.stdout_text = content(stdout_, 0, std::min(written, job.output_bytes));
  result.stderr_tail = tail(stderr_);
  result.out_of_memory = result.report.killed_for == KilledFor::kMemory;
  const int32_t status = result.report.wait_status;
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
    result.out_of_memory |= oom_killed_ || cgroup_.ran_out_of_memory();
  if (job.compares_stdout && first_test < job.expected_stdouts.size())
    result.output_matches = same_tokens(result.stdout_text, job.expected_stdouts[first_test]);
  return result;
}

bool WorkerProcess::lines_are_sealed(uint32_t test_count, const RunResult& result) const {
  std::vector<uint64_t> keys;  // 0: the line has not been met yet
  for (size_t i = 0; i < result.bitmaps.size(); ++i) {
    uint64_t seal = 0;
    std::memcpy(&seal, board_ + seals_offset(test_count) + i * sizeof seal, sizeof seal);
    keys.resize(8 * result.bitmaps[i].size());
    each_line(result.bitmaps[i], [&](uint64_t line) {
      uint64_t& key = keys[line];
      if (key == 0) key = first_key(until_set_up_, line);
      seal -= key;
      key = next_key(key);
    });
    if (seal != 0) return false;
  }
  return true;
}

bool WorkerProcess::program_began() const {
  uint64_t left = 0;
  std::memcpy(&left, board_ + offsetof(BoardHeader, until_compiled), sizeof left);
  return left != until_compiled_;
}

std::optional<Report> WorkerProcess::oom_report() {
  if (!cgroup_.ran_out_of_memory()) return std::nullopt;
  oom_killed_ = true;
  Report report;
  report.wait_status = SIGKILL;
  std::memcpy(&report.phase, board_ + offsetof(BoardHeader, phase), sizeof report.phase);
  return report;
}

std::string WorkerProcess::stderr_tail() const { return tail(stderr_); }

}  // namespace stepcoder
