// See event_loop.h. The worker enforces a run's limits. The loop keeps a later deadline for the
// worker itself, so that no run can hold a slot for ever.
#include "host/event_loop.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>

namespace stepcoder {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kStartup = 60 * kSecond;  // for a worker to become ready
constexpr int kAttempts = 2;                // a run whose worker crashed is repeated once
// Of a slot. Each set of libraries that its jobs need takes a worker, and each of those memory.
constexpr size_t kMostWorkers = 6;
// Of what the tests of one program print, beyond what they are expected to; of any test.
constexpr uint64_t kMostOutput = uint64_t{32} << 20;
constexpr size_t kLeastOutput = 2048;

void watch(const UniqueFd& epoll, int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  checked(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

}  // namespace

EventLoop::EventLoop(WorkerCommands commands, uint32_t slots)
    : commands_(std::move(commands)),
      cgroups_(find_cgroup_parent()),
      slots_(slots),
      epoll_(checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      wake_(checked(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
      owner_(getpid()) {
  for (uint32_t i = 0; i < slots; ++i) slots_[i].number = i;
  remove_leftovers(cgroups_);
  watch(epoll_, wake_.get());
  thread_ = std::thread([this] { thread(); });
}

EventLoop::~EventLoop() { close(); }

void EventLoop::submit(Job job) {
  bool awaited = false;
  {
    std::lock_guard lock(mutex_);
    // Compiled programs first: of a long queue all would be compiled before any of them runs.
    if (job.binary || job.tester_binary)
      pending_.push_front(std::move(job));
    else
      pending_.push_back(std::move(job));
    awaited = std::exchange(job_awaited_, false);
  }
  if (awaited) wake();  // otherwise every slot is busy and looks for a job when it is done
}

void EventLoop::cancel(uint64_t id) {
  {
    std::lock_guard lock(mutex_);
    cancelled_.push_back(id);
  }
  wake();
}

void EventLoop::wake() { checked(eventfd_write(wake_.get(), 1), "wake the event loop"); }

std::vector<JobResult> EventLoop::next(double seconds) {
  std::unique_lock lock(mutex_);
  finished_changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                             [this] { return !finished_.empty() || closing_; });
  return std::exchange(finished_, {});
}

void EventLoop::close() {
  if (owner_ != getpid()) {  // a fork of the judge has no such thread
    if (thread_.joinable()) thread_.detach();
    return;
  }
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  finished_changed_.notify_all();
  if (eventfd_write(wake_.get(), 1) < 0) return;
  if (thread_.joinable()) thread_.join();
}

void EventLoop::thread() {
  std::array<epoll_event, 64> events{};
  while (true) {
    const int count = epoll_wait(epoll_.get(), events.data(), events.size(), timeout_ms());
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == wake_.get()) {
        eventfd_t ignored = 0;
        eventfd_read(fd, &ignored);
        continue;
      }
      for (Slot& slot : slots_) {
        const auto worker = std::find_if(slot.workers.begin(), slot.workers.end(), [fd](auto& w) {
          return w.process && w.process->control() == fd;
        });
        if (worker == slot.workers.end()) continue;
        on_readable(slot, *worker);  // which may change the list
        break;
      }
    }
    check_deadlines();
    {
      std::lock_guard lock(mutex_);
      if (closing_) break;
    }
    take_cancellations();
    take_jobs();
  }
  slots_.clear();  // ends the workers
}

// Drops queued jobs. Runs in progress are killed, and their job ends with the reports.
void EventLoop::take_cancellations() {
  std::vector<uint64_t> ids;
  {
    std::lock_guard lock(mutex_);
    ids = std::exchange(cancelled_, {});
    for (const uint64_t id : ids) {
      const auto job = std::find_if(pending_.begin(), pending_.end(),
                                    [id](const Job& waiting) { return waiting.id == id; });
      if (job == pending_.end()) continue;
      pending_.erase(job);
      finished_.push_back(JobResult{id, {}});
      finished_changed_.notify_one();
    }
  }
  for (Slot& slot : slots_) {
    if (!slot.active) continue;
    if (std::find(ids.begin(), ids.end(), slot.active->job.id) == ids.end()) continue;
    slot.active->cancelled = true;
    kill_run(slot);
  }
}

// The run then ends with its reports. Its socket tells if a worker is gone.
void EventLoop::kill_run(Slot& slot) {
  if (!slot.running) return;
  for (const Worker* worker : workers_for(slot, slot.active->job))
    if (worker->process) worker->process->request_kill();
}

void EventLoop::take_jobs() {
  for (Slot& slot : slots_) {
    while (!slot.active) {  // again after a job that ended at once, such as one without a worker
      auto active = std::make_shared<ActiveJob>();
      {
        std::lock_guard lock(mutex_);
        job_awaited_ = pending_.empty();
        if (job_awaited_) break;
        active->job = std::move(pending_.front());
        pending_.pop_front();
      }
      active->result.id = active->job.id;
      active->end_test = active->job.test_count;
      active->room = kMostOutput + active->job.output_bytes;
      for (const std::string& expected : active->job.expected_stdouts)
        active->room += 2 * expected.size();
      assign_test(slot, active);
    }
  }
  share_tests();
}

// Idle slots take tests of the jobs that others work on. A slot without a worker starts one, but no
// test waits for it.
void EventLoop::share_tests() {
  for (const Slot& owner : slots_) {
    const std::shared_ptr<ActiveJob> active = owner.active;
    if (!active || !active->job.run_for_each_test || active->cancelled) continue;
    uint32_t starting = 0;
    for (Slot& slot : slots_) {
      if (active->next_test + starting >= active->end_test) break;
      if (slot.active || !slot.can_share) continue;
      try {
        if (start_workers(slot, active->job))
          assign_test(slot, active);
        else
          ++starting;
      } catch (const std::exception&) {
        slot.can_share = false;
      }
    }
  }
}

void EventLoop::assign_test(Slot& slot, const std::shared_ptr<ActiveJob>& active) {
  slot.active = active;
  ++active->slots;
  slot.test = active->next_test;
  active->next_test = active->job.run_for_each_test ? slot.test + 1 : active->end_test;
  slot.attempts = 0;
  advance(slot);
}

// The program's worker, then the tester's if the job has one.
std::vector<EventLoop::Worker*> EventLoop::workers_for(Slot& slot, const Job& job) {
  std::vector<Worker*> workers{worker_for(slot, job.runner, job.among_testers, job.libraries)};
  if (job.kind == JobKind::kPair) {
    const Runner runner = job.tester_binary ? Runner::kNative : Runner::kPython;
    workers.push_back(worker_for(slot, runner, true, job.tester_libraries));
  }
  return workers;
}

// A worker that is not there yet takes the place of the one that has not been used for longest.
EventLoop::Worker* EventLoop::worker_for(Slot& slot, Runner runner, bool tester,
                                         const std::string& libraries) {
  std::list<Worker>& workers = slot.workers;
  const auto found = std::find_if(workers.begin(), workers.end(), [&](const Worker& worker) {
    return worker.runner == runner && worker.tester == tester && worker.libraries == libraries;
  });
  if (found != workers.end()) {
    workers.splice(workers.begin(), workers, found);
  } else {
    if (workers.size() == kMostWorkers) workers.pop_back();
    workers.push_front({runner, tester, libraries, nullptr});
  }
  return &workers.front();
}

// Starts the slot's run, or the workers that it needs first.
void EventLoop::advance(Slot& slot) {
  if (slot.active->cancelled || slot.test >= slot.active->end_test) {
    leave_job(slot);
    return;
  }
  try {
    slot.deadline_ns = now_ns() + kStartup;
    if (start_workers(slot, slot.active->job)) start_run(slot);
  } catch (const std::exception& error) {
    on_crash(slot, error.what());
  }
}

// Starts those workers of a job that the slot lacks; true once all are ready.
bool EventLoop::start_workers(Slot& slot, const Job& job) {
  bool ready = true;
  for (Worker* worker : workers_for(slot, job)) {
    if (!worker->process) {
      const bool is_python = worker->runner == Runner::kPython;
      std::vector<std::string> argv = is_python                           ? commands_.python
                                      : worker->runner == Runner::kNative ? commands_.native
                                                                          : commands_.compiler;
      if (is_python) argv.push_back(worker->libraries);
      argv.insert(argv.end(), {std::to_string(slot.number), worker->tester ? "tester" : "program"});
      worker->process = std::make_unique<WorkerProcess>(
          argv, is_python ? commands_.preload : std::string(), cgroups_);
      watch(epoll_, worker->process->control());
    }
    ready = ready && worker->process->ready;
  }
  return ready;
}

void EventLoop::start_run(Slot& slot) {
  const Job& job = slot.active->job;
  slot.reported.clear();
  slot.running = true;
  slot.deadline_ns = now_ns() + longest_run_ns(job);
  UniqueFd program_end;
  UniqueFd tester_end;
  if (job.kind == JobKind::kPair) {
    std::array<int, 2> pair{};
    checked(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), "socketpair");
    program_end = UniqueFd(pair[0]);
    tester_end = UniqueFd(pair[1]);
  }
  const auto workers = workers_for(slot, job);
  slot.expected_reports = workers.size();
  for (size_t i = workers.size(); i-- > 0;) {  // the tester first, whose board the program's reads
    const Worker& worker = *workers[i];
    const bool as_tester = i != 0;
    const bool is_served = !as_tester && workers.size() > 1 && !job.tester_binary;
    const int tester_board = is_served ? workers[1]->process->board() : -1;
    const UniqueFd& channel = as_tester ? tester_end : program_end;
    if (!worker.process->begin(job, slot.test, as_tester, channel.get(), tester_board))
      throw std::runtime_error("the worker is gone: " + worker.process->stderr_tail());
  }
}

void EventLoop::on_readable(Slot& slot, Worker& worker) {
  WorkerProcess& process = *worker.process;
  union {
    Hello hello;
    Running running;
    Report report;
  } message{};
  const ssize_t got = recv(process.control(), &message, sizeof message, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got == sizeof(Hello) && !process.ready) {
    process.ready = true;
    process.missing_layers = message.hello.missing_layers;
    missing_layers_ |= message.hello.missing_layers;
    if (slot.active && !slot.running) advance(slot);
    return;
  }
  if (got == sizeof(Running) && slot.running) {
    process.watch(message.running);
    return;
  }
  // The kernel may have killed the worker for its run's memory; that counts as the run's own end.
  const bool ended = got != sizeof(Report) || !slot.running;
  std::optional<Report> last = ended && slot.running ? process.oom_report() : std::nullopt;
  if (ended && !last && lost_to_program(slot)) last = Report{.wait_status = SIGKILL};
  if (ended && !last) {
    const std::string why = "a worker of the sandbox ended: " + process.stderr_tail();
    bool in_use = false;  // the slot's current job may not need this worker
    if (slot.active)
      for (const Worker* other : workers_for(slot, slot.active->job))
        in_use = in_use || other == &worker;
    worker.process.reset();
    if (in_use)
      on_crash(slot, why);
    else if (!slot.active)
      slot.can_share = false;
    return;
  }
  take_report(slot, worker, last ? *last : message.report, last.has_value());
}

void EventLoop::take_report(Slot& slot, Worker& worker, const Report& report, bool worker_is_lost) {
  const bool as_tester = slot.expected_reports == 2 && worker.tester;
  try {
    slot.reported.push_back(
        worker.process->collect(slot.active->job, slot.test, as_tester, report));
  } catch (const std::exception& error) {
    on_crash(slot, error.what());
    return;
  }
  if (worker_is_lost) worker.process.reset();
  if (slot.reported.size() == slot.expected_reports) {
    finish_run(slot);
  } else if (as_tester) {
    // The tests are over, so the program need not go on.
    workers_for(slot, slot.active->job).front()->process->request_kill();
  }
}

// True if the run's second worker, too, is lost after the program's code has begun. That is the
// program's doing, and must not spare it a verdict.
bool EventLoop::lost_to_program(Slot& slot) {
  return slot.running && slot.expected_reports == 1 && slot.attempts + 1 == kAttempts &&
         workers_for(slot, slot.active->job).front()->process->program_began();
}

// The machine or a worker failed, not the program. Tries once more with fresh workers.
void EventLoop::on_crash(Slot& slot, const std::string& why) {
  for (Worker* worker : workers_for(slot, slot.active->job)) worker->process.reset();
  slot.running = false;
  if (++slot.attempts < kAttempts) {
    advance(slot);
    return;
  }
  RunResult failure;
  failure.infrastructure_error = true;
  failure.infrastructure_message = why;
  failure.first_test = slot.test;
  slot.active->result.runs.push_back(std::move(failure));
  end_after(*slot.active, slot.test);
  leave_job(slot);
}

void EventLoop::finish_run(Slot& slot) {
  slot.running = false;
  ActiveJob& active = *slot.active;
  const Job& job = active.job;
  const auto ended_in = [&slot](uint32_t phase) {
    return std::any_of(slot.reported.begin(), slot.reported.end(),
                       [=](const RunResult& run) { return run.report.phase == phase; });
  };
  const bool setup_failed = std::any_of(slot.reported.begin(), slot.reported.end(),
                                        [](const RunResult& run) { return run.was_not_set_up(); });
  if (setup_failed && slot.test < active.end_test && !active.cancelled) {
    on_crash(slot, "a run could not be set up: " + slot.reported.front().stderr_tail);
    return;
  }
  const uint32_t phase = slot.reported.front().report.phase;
  bool failed = false;
  for (const RunResult& run : slot.reported) {
    if (run.is_tester != (job.kind == JobKind::kPair)) continue;  // only the tester finds anything
    failed = run.report.phase <= kPhaseFirstTest || (job.compares_stdout && !run.output_matches) ||
             (job.kind != JobKind::kStdin && !job.tester_binary && !run.tests.empty() &&
              run.tests.front().outcome != Outcome::kValue);
  }
  bool again = false;
  if (job.run_for_each_test) {
    // A program that does not compile for one test does not for the next.
    if (ended_in(kPhaseCompile) || (failed && job.stop_at_first_failure))
      end_after(active, slot.test);
    slot.test = active.next_test;
    again = slot.test < active.end_test;
    if (again) ++active.next_test;
  } else if (job.kind == JobKind::kCalls && phase >= kPhaseFirstTest) {
    // The process ended in this test, so the others get a new one. The program may have lied about
    // the phase, which can therefore lie before the tests that this run was for.
    slot.test = std::max(slot.test, phase - kPhaseFirstTest) + 1;
    again = slot.test < job.test_count && !job.stop_at_first_failure;
  }
  for (RunResult& run : slot.reported) {
    keep_output(active, run);
    active.result.runs.push_back(std::move(run));
  }
  if (!again) return leave_job(slot);
  slot.attempts = 0;
  advance(slot);
}

// Where a program prints too much in all its tests together, only the end of each text is kept.
// A checker, which needs all of it, is not asked then.
void EventLoop::keep_output(ActiveJob& active, RunResult& run) {
  const uint64_t size = run.stdout_text.size() + run.stderr_tail.size();
  if (size <= active.room) {
    active.room -= size;
    return;
  }
  if (active.job.kind == JobKind::kStdin && !active.job.compares_stdout) run.output_exceeded = true;
  for (std::string* text : {&run.stdout_text, &run.stderr_tail})
    if (text->size() > kLeastOutput) *text = text->substr(text->size() - kLeastOutput);
}

// Tests behind this one do not matter any more; those that run already are killed.
void EventLoop::end_after(ActiveJob& active, uint32_t test) {
  active.end_test = std::min(active.end_test, test + 1);
  for (Slot& slot : slots_)
    if (slot.active.get() == &active && slot.test >= active.end_test) kill_run(slot);
}

// The last slot that leaves a job finishes it.
void EventLoop::leave_job(Slot& slot) {
  const std::shared_ptr<ActiveJob> active = std::exchange(slot.active, nullptr);
  if (--active->slots > 0) return;
  std::vector<RunResult>& runs = active->result.runs;
  // A program that interferes with one of its runs is believed none of its lines.
  if (std::any_of(runs.begin(), runs.end(), [](const RunResult& run) { return run.tampered; }))
    for (RunResult& run : runs) run.bitmaps.clear();
  std::erase_if(runs, [&](const RunResult& run) { return run.first_test >= active->end_test; });
  std::stable_sort(runs.begin(), runs.end(), [](const RunResult& left, const RunResult& right) {
    return left.first_test < right.first_test;
  });
  {
    std::lock_guard lock(mutex_);
    finished_.push_back(std::move(active->result));
  }
  finished_changed_.notify_one();
}

int EventLoop::timeout_ms() {
  int64_t earliest = INT64_MAX;
  for (const Slot& slot : slots_) {
    if (slot.active) earliest = std::min(earliest, slot.deadline_ns);
    for (const Worker& worker : slot.workers)
      if (worker.process) earliest = std::min(earliest, worker.process->next_look_ns);
  }
  if (earliest == INT64_MAX) return -1;
  return static_cast<int>(std::clamp<int64_t>((earliest - now_ns()) / 1'000'000 + 1, 0, 60'000));
}

void EventLoop::check_deadlines() {
  const int64_t now = now_ns();
  for (Slot& slot : slots_) {
    for (const Worker& worker : slot.workers)
      if (worker.process && now >= worker.process->next_look_ns) worker.process->look();
    if (slot.active && now >= slot.deadline_ns) {
      if (lost_to_program(slot))
        take_report(slot, *workers_for(slot, slot.active->job).front(),
                    {.wait_status = SIGKILL, .killed_for = KilledFor::kWall}, true);
      else
        on_crash(slot, "a worker of the sandbox hangs");
    }
  }
}

}  // namespace stepcoder
