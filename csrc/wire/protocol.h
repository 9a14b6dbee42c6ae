// The protocol between judge, worker and child: the fixed descriptors of a worker, the messages on
// its control socket, and the board, a shared memory into which the child writes its results.
// Python reads the constants from the extension (bindings.cpp), on both sides.
//
// Untrusted code writes to the board. A reader copies each field once and checks it against sizes
// that it knows itself. Nothing on the board can earn a verdict: it holds returned values, and the
// expected ones are known to the judge alone. What must not be forged either (that a run was set
// up, that it compiled, which lines ran) rests on secrets of the judge: they lie on the board until
// they are used, which is before the program's code could read them.
#pragma once

#include <time.h>

#include <cstdint>

namespace stepcoder {

// Descriptors of a worker process; 0, 1 and 2 are memory files that hold stdin, stdout, stderr.
constexpr int kControlFd = 3;
constexpr int kRequestFd = 4;
constexpr int kBoardFd = 5;
constexpr int kFirstFreeFd = 6;
// In a child that talks to another child: its end of the channel.
constexpr int kChannelFd = 3;
// In a child that runs machine code: where violations are read, and the program's binary.
constexpr int kViolationsFd = 4;
constexpr int kBinaryFd = 5;

// Processes and threads of a worker and its run together.
constexpr uint64_t kMaxTasks = 256;
// Descriptors of a run.
constexpr uint64_t kMaxFiles = 64;

enum class Command : uint32_t { kRun = 1, kKill = 2, kKillForMemory = 3 };

enum Sent : uint32_t { kSentChannel = 1, kSentTesterBoard = 2, kSentBinary = 4 };

// judge -> worker -> child, on SOCK_SEQPACKET pairs. The request itself lies in the request file.
struct ControlMessage {
  Command command = Command::kRun;
  uint32_t test_count = 0;
  int64_t cpu_ns = 0;           // per phase
  int64_t wall_ns = 0;          // per phase
  uint64_t memory_bytes = 0;    // that it may use beyond what its worker does
  uint64_t reserved_bytes = 0;  // of addresses, likewise
  uint64_t output_bytes = 0;
  uint64_t arena_offset = 0;
  uint64_t line_count = 0;  // lines of the program that are noted
  uint32_t first_test = 0;
  uint32_t sent = 0;  // the descriptors that come along, in the order of these bits
};

// worker -> judge, once when the worker is ready.
struct Hello {
  uint32_t missing_layers = 0;  // bit set of Layer
};

enum Layer : uint32_t {
  kUserNamespace = 1,
  kMountNamespace = 2,
  kNetworkNamespace = 4,
  kPidNamespace = 8,
  kOwnUid = 16,
  kReadableFiles = 32,  // neither an empty root nor Landlock
};

// worker -> judge, of a run that goes on: the judge watches what it uses. Shorter runs end first.
struct Running {
  int32_t pid = 0;
  uint32_t reserved = 0;
  uint64_t most_bytes = 0;  // of memory, as the kernel counts it for the process
};

// Addresses that a program may reserve beyond the memory that it may use. It bounds what a run can
// take between two looks at it, and page tables.
constexpr uint64_t kUnusedBytes = uint64_t{4} << 30;

// kCancelled: the judge asked for it.
enum class KilledFor : uint32_t { kNothing = 0, kCpu = 1, kWall = 2, kCancelled = 3, kMemory = 4 };

// worker -> judge, once for each run.
struct Report {
  int32_t wait_status = 0;
  KilledFor killed_for = KilledFor::kNothing;
  uint32_t phase = 0;
  uint32_t reserved = 0;
  int64_t cpu_ns = 0;
  int64_t wall_ns = 0;
  int64_t peak_memory_bytes = 0;
};

// Exit statuses of a child that the launcher, not the program, has ended.
constexpr int kExitSetupFailed = 113;
constexpr int kExitHarnessFailed = 114;
constexpr int kExitViolation = 115;
constexpr int kExitOutputLimit = 116;
constexpr int kExitAborted = 117;

// Phases of a run. Test i is phase kPhaseFirstTest + i; the phase after the last test is "done".
constexpr uint32_t kPhaseSetup = 0;
constexpr uint32_t kPhaseCompile = 1;
constexpr uint32_t kPhaseLoad = 2;
constexpr uint32_t kPhaseFirstTest = 3;

enum class Outcome : uint32_t {
  kNone = 0,      // the phase did not finish
  kValue = 1,     // payload: the returned value
  kError = 2,     // payload: (exception type, message, line or None)
  kNotPlain = 3,  // payload: what the value was
  kTooLarge = 4,  // the value exceeds the cap
};

struct Record {
  Outcome outcome = Outcome::kNone;
  uint32_t reserved = 0;
  uint64_t offset = 0;  // into the arena
  uint64_t length = 0;
  int64_t cpu_ns = 0;
  int64_t wall_ns = 0;
};

constexpr uint64_t kBoardBytes = uint64_t{80} << 20;
constexpr uint64_t kRecordsOffset = 4096;
constexpr uint64_t kMaxBitmapBytes = uint64_t{32} << 20;
constexpr uint64_t kArenaBytes = uint64_t{32} << 20;
constexpr uint32_t kMaxTests = 100'000;
// More than programs have. The judge holds those that ran in each test.
constexpr uint64_t kMaxTracedLines = uint64_t{1} << 13;

// First bytes of the board. The judge fills in the layout before a run.
struct BoardHeader {
  uint32_t test_count = 0;
  uint32_t bitmap_count = 0;  // 1 (one for all phases), or 1 for loading + 1 for each test
  uint64_t bitmap_bytes = 0;  // of one bitmap; bit n is line n
  uint64_t bitmaps_offset = 0;
  uint64_t arena_offset = 0;
  uint32_t first_test = 0;  // the run begins with this one
  uint32_t reserved = 0;
  // Written by the child:
  uint64_t arena_used = 0;
  uint32_t phase = kPhaseSetup;
  int32_t violation = -1;  // system call number
  int64_t phase_cpu_ns = 0;
  int64_t phase_wall_ns = 0;
  uint64_t unused = 0;
  // Secrets of the judge. The child clears the first once it is set up, when it has derived the
  // keys of the lines from it (line_seal.h), and the second once it has compiled the program.
  uint64_t until_set_up = 0;
  uint64_t until_compiled = 0;
  // How a C or C++ program ended, written by the child that ran it; the program has no board.
  uint32_t native_ended = 0;
  int32_t native_wait_status = 0;
  KilledFor native_killed_for = KilledFor::kNothing;
  uint32_t reserved2 = 0;
};

// Records lie at kRecordsOffset: first that of compiling and loading, then one for each test.
inline uint64_t records_bytes(uint32_t test_count) {
  return sizeof(Record) * (uint64_t{test_count} + 1);
}

// The bitmaps' seals lie after the records.
inline uint64_t seals_offset(uint32_t test_count) {
  return kRecordsOffset + records_bytes(test_count);
}

inline int64_t now_ns(clockid_t clock = CLOCK_MONOTONIC) {
  timespec time{};
  clock_gettime(clock, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace stepcoder
