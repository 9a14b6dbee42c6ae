// See child.h.
#include "guest/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

#include "guest/tracer.h"
#include "wire/control.h"
#include "wire/fd.h"
#include "wire/wire.h"
#include "worker/isolation.h"
#include "worker/prefault.h"
#include "worker/seccomp.h"

namespace stepcoder::child {
namespace {

std::byte* g_board = nullptr;
ControlMessage g_limits;
uint64_t g_most_bytes = 0;  // of memory; 0: another process has the limit

// The record of the current phase; nullptr where it has none.
Record* current_record() {
  uint32_t phase = header().phase;
  auto* records = reinterpret_cast<Record*>(g_board + kRecordsOffset);
  if (phase < kPhaseFirstTest) return records;
  uint32_t test = phase - kPhaseFirstTest;
  return test < header().test_count ? records + 1 + test : nullptr;
}

void set_limit(__rlimit_resource_t resource, uint64_t value) {
  rlimit now{};
  checked(getrlimit(resource, &now), "getrlimit");
  value = std::min<uint64_t>(value, now.rlim_max);
  rlimit limit{value, value};
  checked(setrlimit(resource, &limit), "setrlimit");
}

std::string read_request() {
  struct stat info{};
  checked(fstat(kRequestFd, &info), "fstat of the request");
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t got = checked(
        pread(kRequestFd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done)),
        "read the request");
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return bytes;
}

// The steps of a run's isolation that do not depend on its request. A child inherits the rest from
// the worker: namespaces, root, no new privileges, filter, fixed limits, not dumpable.
void confine() {
  // The end of the worker ends its children, wherever they are.
  checked(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "parent death signal");
  // A process group of its own, so that kill(0) does not reach the worker.
  checked(setpgid(0, 0), "setpgid");
  checked(close(kControlFd), "close the control socket");
  drop_capabilities();
  // The worker blocks the signals that it reads from a descriptor.
  sigset_t none;
  sigemptyset(&none);
  checked(sigprocmask(SIG_SETMASK, &none, nullptr), "sigprocmask");
}

// The steps that depend on the request.
void confine_to(const Shared& shared, const Received& received) {
  const ControlMessage& message = g_limits = received.message;
  // The program gets neither the request nor the board nor the socket to the worker.
  int kept = kChannelFd - 1;
  for (const auto& [from, to] : {std::pair{received.channel.get(), kChannelFd},
                                 {shared.violations_fd, kViolationsFd},
                                 {received.binary.get(), kBinaryFd}})
    if (from >= 0) kept = from == to ? to : checked(dup3(from, to, O_CLOEXEC), "dup3");
  checked(syscall(SYS_close_range, kept + 1, ~0U, 0), "close descriptors");
  // A kernel limit behind the worker's clock. Soft equals hard, so that it cannot be caught.
  const uint64_t phases = uint64_t{message.test_count} + 2;
  set_limit(RLIMIT_CPU, static_cast<uint64_t>(message.cpu_ns) * phases / 1'000'000'000 + 2);
  set_limit(RLIMIT_AS, shared.address_space_bytes + message.reserved_bytes);
  set_limit(RLIMIT_NOFILE, kMaxFiles);
  if (!shared.native) g_most_bytes = shared.resident_bytes + message.memory_bytes;
  if (!shared.native) set_limit(RLIMIT_FSIZE, message.output_bytes + 1);
  if (!shared.filter.empty()) install_filter(shared.filter);
}

// Appends a value's bytes to the board.
bool put_payload(Record& record, Outcome outcome, const std::string& bytes) {
  const uint64_t used = header().arena_used;
  if (used > kArenaBytes || bytes.size() > kArenaBytes - used) {
    record.outcome = Outcome::kTooLarge;
    return true;
  }
  std::memcpy(g_board + header().arena_offset + used, bytes.data(), bytes.size());
  record.offset = used;
  record.length = bytes.size();
  header().arena_used = used + bytes.size();
  record.outcome = outcome;
  return true;
}

uint64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

void stamp(Record& record) {
  record.cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID) - header().phase_cpu_ns;
  record.wall_ns = now_ns() - header().phase_wall_ns;
}

// From here on whatever happens to the run is the program's doing.
void take_secret(uint64_t line_count) {
  tracer::take_keys(header().until_set_up, line_count + 1);
  header().until_set_up = 0;
}

}  // namespace

const ControlMessage& limits() { return g_limits; }

BoardHeader& header() { return *reinterpret_cast<BoardHeader*>(g_board); }

void run(const Shared& shared, int control, PyObject* run) {
  prctl(PR_SET_NAME, "sc-ready");
  g_board = static_cast<std::byte*>(shared.board);
  PyObject* request = nullptr;
  int channel = -1;
  try {
    confine();
    prefault(shared.dirty_pages);
    std::optional<Received> received = receive_control(control);
    if (!received) _exit(0);  // the worker is gone
    prctl(PR_SET_NAME, "sc-child");
    const std::string bytes = read_request();
    request = decode_value(bytes, nullptr, kMaxRequestDepth);
    confine_to(shared, *received);
    // It lies at kChannelFd now.
    channel = received->channel.release();
    received->binary.release();
    if (!shared.native) take_secret(received->message.line_count);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cannot confine the run: %s\n", error.what());
    std::fflush(stderr);
    _exit(kExitSetupFailed);
  }
  if (request == nullptr) _exit(kExitSetupFailed);
  PyObject* result = PyObject_CallFunction(run, "Oi", request, channel >= 0 ? kChannelFd : -1);
  if (result == nullptr) {
    PyErr_WriteUnraisable(run);
    _exit(kExitHarnessFailed);
  }
  _exit(0);
}

void rehearse(const Shared& shared, PyObject* rehearse) {
  g_board = static_cast<std::byte*>(shared.board);
  header() = BoardHeader{.test_count = 1,
                         .bitmap_count = 1,
                         .bitmap_bytes = 8,
                         .bitmaps_offset = seals_offset(1) + sizeof(uint64_t),
                         .arena_offset = 2 * kRecordsOffset};
  take_secret(63);
  PyObject* runs = PyObject_CallNoArgs(rehearse);
  if (runs != nullptr) {
    while (PyObject* run = PyIter_Next(runs)) {
      Py_DECREF(run);
      tracer::forget();
    }
    Py_DECREF(runs);
  }
  if (PyErr_Occurred() == nullptr) return;
  PyErr_WriteUnraisable(rehearse);
  throw std::runtime_error("the rehearsal failed");
}

void enter_phase(uint32_t phase) {
  // A program can call this too, and must not reset what an earlier phase has recorded.
  if (phase <= header().phase) return;
  // Used too much and gave it back before anyone has looked: it ends in the phase that did so. (The
  // worker finds it out in any case.)
  if (phase > kPhaseCompile && g_most_bytes != 0 && peak_memory_bytes() > g_most_bytes) _exit(0);
  if (phase > kPhaseCompile) header().until_compiled = 0;
  header().phase_cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID);
  header().phase_wall_ns = now_ns();
  const uint32_t index = phase >= kPhaseFirstTest ? phase - kPhaseFirstTest + 1 : 0;
  if (index < header().bitmap_count) {
    auto* bitmaps = reinterpret_cast<uint8_t*>(g_board + header().bitmaps_offset);
    auto* seals = reinterpret_cast<uint64_t*>(g_board + seals_offset(header().test_count));
    tracer::set_bitmap(bitmaps + index * header().bitmap_bytes, seals + index);
  }
  // Stored last: the worker reads the phase first, then the times at which it began.
  __atomic_store_n(&header().phase, phase, __ATOMIC_RELEASE);
}

bool record_value(PyObject* value, PyObject* normalize) {
  Record* record = current_record();
  if (record == nullptr) return true;
  stamp(*record);
  Encoded encoded = encode_value(value, kArenaBytes, {normalize, false});
  switch (encoded.status) {
    case EncodeStatus::kOk:
      return put_payload(*record, Outcome::kValue, encoded.bytes);
    case EncodeStatus::kNotPlain:
      return put_payload(*record, Outcome::kNotPlain, encoded.bytes);
    case EncodeStatus::kTooLarge:
      record->outcome = Outcome::kTooLarge;
      return true;
    case EncodeStatus::kPythonError:
      return false;
  }
  return false;
}

bool record_error(PyObject* error) {
  Record* record = current_record();
  if (record == nullptr) return true;
  stamp(*record);
  Encoded encoded = encode_value(error, 16 << 10);
  if (encoded.status == EncodeStatus::kPythonError) return false;
  return put_payload(*record, Outcome::kError, encoded.bytes);
}

uint32_t first_test() { return header().first_test; }

}  // namespace stepcoder::child
