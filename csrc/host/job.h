// What the judge hands to its event loop (Job), and what it gets back (JobResult).
#pragma once

#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "wire/fd.h"
#include "wire/protocol.h"

namespace stepcoder {

enum class JobKind {
  kCalls,  // one run for all tests; when a test ends the process, the next ones get another run
  kStdin,  // a run for each test, which reads it on stdin
  kPair,   // a program and, in another process, the tester that talks to it
};

// Whose workers run a job: Python's, those of C and C++ programs, or their compiler's.
enum class Runner { kPython, kNative, kCompiler };

struct Job {
  uint64_t id = 0;
  JobKind kind = JobKind::kCalls;
  Runner runner = Runner::kPython;
  std::shared_ptr<const UniqueFd> binary;         // kNative: the program
  std::shared_ptr<const UniqueFd> tester_binary;  // kPair: an interactor, instead of a tester
  // What the program's worker and the tester's have loaded beside the standard library: an argument
  // of theirs (libraries.py), which this side only compares. Empty: nothing.
  std::string libraries;
  std::string tester_libraries;
  bool among_testers = false;  // kCalls: runs in a worker that has imported what tests import
  std::string request;
  std::string tester_request;
  // Where each test has a run of its own: the end of the request, or of the tester's, for each.
  std::vector<std::string> test_requests;
  std::vector<std::string> stdins;            // kStdin: of each test
  std::vector<std::string> expected_stdouts;  // kStdin: compared by tokens
  bool run_for_each_test = false;             // always for kStdin
  bool compares_stdout = false;               // kStdin: expected_stdouts are there
  uint32_t test_count = 0;
  uint64_t line_count = 0;
  int64_t cpu_ns = 0;
  int64_t wall_ns = 0;
  uint64_t memory_bytes = 0;
  uint64_t output_bytes = 0;
  bool stop_at_first_failure = false;
};

// Whether the run of the program, or of the tester, is one of machine code.
inline bool is_native(const Job& job, bool as_tester) {
  return as_tester ? job.tester_binary != nullptr : job.runner != Runner::kPython;
}

// How many tests one run of the job's program takes.
inline uint32_t tests_per_run(const Job& job) { return job.run_for_each_test ? 1 : job.test_count; }

// The time after which a worker counts as hung: compiling, loading, the tests, the end, its report.
inline int64_t longest_run_ns(const Job& job) {
  constexpr int64_t kSecond = 1'000'000'000;
  const int64_t phases = int64_t{tests_per_run(job)} + 3;
  const int64_t own = job.kind == JobKind::kPair ? 10 * kSecond : 0;
  return phases * (job.wall_ns + own) + 2 * kSecond;
}

struct Finding {
  Outcome outcome = Outcome::kNone;
  std::string payload;
  int64_t cpu_ns = 0;
  int64_t wall_ns = 0;
};

// One run of one process, copied off the board when the process had ended.
struct RunResult {
  bool infrastructure_error = false;
  std::string infrastructure_message;
  bool is_tester = false;
  bool is_native = false;
  uint32_t first_test = 0;
  Report report;
  int32_t violation = -1;
  bool tampered = false;  // its lines cannot be trusted
  Finding loading;
  std::vector<Finding> tests;
  std::vector<std::string> bitmaps;  // of loading, then of each test; or one for all
  std::string stdout_text;
  std::string stderr_tail;
  bool out_of_memory = false;  // ended by the kernel for the memory of its cgroup
  bool output_exceeded = false;
  bool output_matches = false;  // kStdin

  // The machine's failure. (A request that did not fit into the run's memory is the program's.)
  bool was_not_set_up() const {
    return report.phase == kPhaseSetup && !out_of_memory &&
           report.killed_for != KilledFor::kCancelled;
  }
};

// Visits the lines that a bitmap names.
template <typename Visit>
void each_line(const std::string& bitmap, Visit visit) {
  for (uint64_t byte = 0; byte < bitmap.size(); ++byte)
    for (unsigned bits = static_cast<unsigned char>(bitmap[byte]); bits != 0; bits &= bits - 1)
      visit(byte * 8 + static_cast<uint64_t>(std::countr_zero(bits)));
}

struct JobResult {
  uint64_t id = 0;
  std::vector<RunResult> runs;
};

}  // namespace stepcoder
