// The judge's event loop: one thread that drives all workers, without the interpreter's lock.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
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

// How to start the kinds of worker. Python's gets its libraries; to each the slot's number and
// "program" or "tester" are appended.
struct WorkerCommands {
  std::vector<std::string> python;
  std::vector<std::string> native;  // those of C and C++ programs
  std::vector<std::string> compiler;
  std::string preload;  // a library to load before Python's interpreter, or empty
};

class EventLoop {
 public:
  EventLoop(WorkerCommands commands, uint32_t slots);
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  void submit(Job job);

  // Drops a queued job, or ends the runs of one in progress; its result holds the runs that it had.
  // Does nothing for ids that are finished or unknown.
  void cancel(uint64_t id);

  // Waits for finished jobs, at most `seconds`. Empty after that and after close().
  std::vector<JobResult> next(double seconds);

  // Ends every worker and the thread. Unfinished jobs give no result.
  void close();

  // Isolation layers that some worker lacks; known once a worker is ready.
  uint32_t missing_layers() const { return missing_layers_.load(); }
  // Where the workers' cgroups are made, or why there are none.
  const CgroupParent& cgroups() const { return cgroups_; }

 private:
  // A job in progress. Where each test has a run of its own, idle slots share its tests; the result
  // does not depend on how many did.
  struct ActiveJob {
    Job job;
    JobResult result;
    uint32_t next_test = 0;  // the first that is not assigned to a slot
    uint32_t end_test = 0;   // tests from here on need no run (any more)
    uint32_t slots = 0;      // slots that work on it
    bool cancelled = false;
    uint64_t room = 0;  // bytes of output that are still kept
  };

  // A worker for one role with one set of libraries, or the place of one that is to be started.
  struct Worker {
    Runner runner = Runner::kPython;
    bool tester = false;
    std::string libraries;
    std::unique_ptr<WorkerProcess> process;
  };

  // Makes one run at a time, on workers of its own.
  struct Slot {
    uint32_t number = 0;
    std::list<Worker> workers;  // at most kMostWorkers, those used last come first
    std::shared_ptr<ActiveJob> active;
    uint32_t test = 0;  // the first of the run
    int attempts = 0;
    bool running = false;
    bool can_share = true;  // false once a worker died while idle
    std::vector<RunResult> reported;
    size_t expected_reports = 0;
    int64_t deadline_ns = 0;
  };

  void thread();
  void wake();
  void take_cancellations();
  void take_jobs();
  void share_tests();
  void assign_test(Slot& slot, const std::shared_ptr<ActiveJob>& active);
  void advance(Slot& slot);
  void start_run(Slot& slot);
  void on_readable(Slot& slot, Worker& worker);
  void take_report(Slot& slot, Worker& worker, const Report& report, bool worker_is_lost);
  bool lost_to_program(Slot& slot);
  void on_crash(Slot& slot, const std::string& why);
  void finish_run(Slot& slot);
  static void keep_output(ActiveJob& active, RunResult& run);
  void end_after(ActiveJob& active, uint32_t test);
  void kill_run(Slot& slot);
  void leave_job(Slot& slot);
  bool start_workers(Slot& slot, const Job& job);
  std::vector<Worker*> workers_for(Slot& slot, const Job& job);
  Worker* worker_for(Slot& slot, Runner runner, bool tester, const std::string& libraries);
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
  bool job_awaited_ = true;  // some slot is idle
  std::vector<uint64_t> cancelled_;
  std::vector<JobResult> finished_;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace stepcoder
