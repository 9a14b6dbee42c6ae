// The judge's event loop: one thread that drives all workers, without the interpreter's lock.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "host/cgroup.h"
#include "host/job.h"
#include "host/worker_process.h"
#include "wire/fd.h"

namespace stepcoder {

// How to start the two kinds of worker; the slot's number and "program" or "tester" are appended.
struct WorkerCommands {
  std::vector<std::string> bare;
  std::vector<std::string> numpy;
  std::string preload;  // a library to load before the interpreter, or empty
};

class EventLoop {
 public:
  EventLoop(WorkerCommands commands, uint32_t slots);
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  void submit(Job job);

  // Forgets a job or ends its runs; its result then has none, or those that it had. Ids that are
  // finished or unknown do nothing.
  void cancel(uint64_t id);

  // Waits until something is finished, at most `seconds`; empty after that or after close().
  std::vector<JobResult> next(double seconds);

  // Ends every worker and the thread. What is not finished never will be.
  void close();

  // Layers that some worker could not have; known once a worker is ready.
  uint32_t missing_layers() const { return missing_layers_.load(); }
  // Where the workers' cgroups are made, or why there are none.
  const CgroupParent& cgroups() const { return cgroups_; }

 private:
  // A job that some slot works on. Where each test has a run of its own, idle slots take tests of
  // it too; what it reports does not depend on how many did.
  struct ActiveJob {
    Job job;
    JobResult result;
    uint32_t next_test = 0;  // the first that no slot has taken
    uint32_t end_test = 0;   // tests from here on need no run (any more)
    uint32_t slots = 0;      // that work on it
    bool cancelled = false;
  };

  // Makes one run at a time, on the workers that belong to it alone.
  struct Slot {
    uint32_t number = 0;
    std::unique_ptr<WorkerProcess> program_bare;
    std::unique_ptr<WorkerProcess> program_numpy;
    std::unique_ptr<WorkerProcess> tester_bare;
    std::unique_ptr<WorkerProcess> tester_numpy;
    std::shared_ptr<ActiveJob> active;
    uint32_t test = 0;  // the first of the run
    int attempts = 0;
    bool running = false;
    bool may_help = true;  // false once a worker died that no run needed
    std::vector<RunResult> reported;
    size_t expected_reports = 0;
    int64_t deadline_ns = 0;
  };

  void thread();
  void wake();
  void take_cancellations();
  void take_jobs();
  void help();
  void take_test(Slot& slot, const std::shared_ptr<ActiveJob>& active);
  void advance(Slot& slot);
  void start_run(Slot& slot);
  void on_readable(Slot& slot, std::unique_ptr<WorkerProcess>& worker);
  void on_crash(Slot& slot, const std::string& why);
  void finish_run(Slot& slot);
  void end_after(ActiveJob& active, uint32_t test);
  void kill_run(Slot& slot);
  void leave_job(Slot& slot);
  bool start_workers(Slot& slot, const Job& job);
  std::vector<std::unique_ptr<WorkerProcess>*> needed(Slot& slot, const Job& job);
  int timeout_ms();
  void check_deadlines();

  WorkerCommands commands_;
  CgroupParent cgroups_;
  std::vector<Slot> slots_;
  UniqueFd epoll_;
  UniqueFd wake_;
  pid_t owner_;
  std::atomic<uint32_t> missing_layers_{0};

  std::mutex mutex_;
  std::condition_variable finished_changed_;
  std::deque<Job> pending_;
  bool job_awaited_ = true;  // by a slot that has none
  std::vector<uint64_t> cancelled_;
  std::vector<JobResult> finished_;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace stepcoder
