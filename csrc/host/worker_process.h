// The judge's side of one worker: its process, its memory files and its control socket.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "host/cgroup.h"
#include "host/job.h"
#include "wire/fd.h"
#include "wire/protocol.h"

namespace stepcoder {

// A memory file of this content that nobody can change.
UniqueFd sealed_file(const char* name, const std::string& content);

class WorkerProcess {
 public:
  // Starts the process without forking this one. Throws std::system_error.
  WorkerProcess(const std::vector<std::string>& argv, const std::string& preload,
                const CgroupParent& cgroups);
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  int control() const { return control_.get(); }

  int board() const { return board_file_.get(); }

  // Writes the request, clears the board and starts the run. A program that serves a tester gets a
  // channel to it, and its worker the tester's board. False if the worker is gone.
  bool begin(const Job& job, uint32_t first_test, bool as_tester, int channel, int tester_board);
  bool request_kill(Command why = Command::kKill);

  // Begins to watch the memory of the current run. look() ends it if that is too much; it is due at
  // next_look_ns.
  void watch(const Running& running);
  void look();
  int64_t next_look_ns = INT64_MAX;

  // Copies what the run left. Only once its Report has come, when nothing writes any more.
  RunResult collect(const Job& job, uint32_t first_test, bool as_tester, const Report& report);

  // The report that the worker would have sent, if the kernel killed it for the memory of its run.
  std::optional<Report> oom_report();

  // Whether the program of the run had begun, as far as the board says: a program can say so before
  // it has, and cannot take it back.
  bool program_began() const;

  // The end of what the process wrote to stderr, to explain why it is gone.
  std::string stderr_tail() const;

  bool ready = false;
  uint32_t missing_layers = 0;

 private:
  // Returns false if the lines on the board are not those that the run's tracer noted.
  bool lines_are_sealed(uint32_t test_count, const RunResult& result) const;
  void wipe_board();
  void wait_or_kill();

  bool oom_killed_ = false;
  Running running_;
  bool runs_native_ = false;
  std::optional<bool> can_be_watched_;
  uint64_t secret_seed_;
  uint64_t secrets_drawn_ = 0;
  uint64_t until_set_up_ = 0;  // the secrets of the current run (BoardHeader)
  uint64_t until_compiled_ = 0;
  pid_t pid_ = -1;
  pid_t owner_;    // a fork of the judge owns no process
  Cgroup cgroup_;  // removed after the process has ended
  UniqueFd pidfd_;
  UniqueFd control_;
  UniqueFd request_;
  UniqueFd board_file_;
  UniqueFd stdin_;
  UniqueFd stdout_;
  UniqueFd stderr_;
  std::byte* board_ = nullptr;
};

}  // namespace stepcoder
