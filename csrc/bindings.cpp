// The Python interface of the extension: the protocol's constants, the value codec, the EventLoop
// for the judge, serve() and the functions of a run for workers.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "bindings_testing.h"
#include "guest/child.h"
#include "guest/direct.h"
#include "guest/tracer.h"
#include "host/event_loop.h"
#include "native/start.h"
#include "wire/protocol.h"
#include "wire/wire.h"
#include "worker/syscall_table.h"
#include "worker/worker.h"

namespace py = pybind11;

namespace stepcoder {
namespace {

void require(bool done) {
  if (!done) throw py::error_already_set();
}

PyObject* pointer_or_null(const py::object& object) {
  return object.is_none() ? nullptr : object.ptr();
}

py::bytes encode(const py::object& value, size_t max_bytes, const py::object& hook) {
  Encoded encoded = encode_value(value.ptr(), max_bytes, {pointer_or_null(hook), !hook.is_none()});
  if (encoded.status == EncodeStatus::kPythonError) throw py::error_already_set();
  if (encoded.status == EncodeStatus::kNotPlain)
    throw py::type_error("cannot encode " + encoded.bytes);
  if (encoded.status == EncodeStatus::kTooLarge) throw py::value_error("the value is too large");
  return py::bytes(encoded.bytes);
}

std::pair<uint64_t, uint64_t> weigh_bytes(std::string_view bytes) {
  py::gil_scoped_release release;
  const Weight weight = weigh(bytes);
  return {weight.values, weight.bytes};
}

py::object decode(const py::bytes& bytes, const py::object& hook, uint64_t max_bytes) {
  if (weigh_bytes(std::string_view(bytes)).second > max_bytes)
    throw py::value_error("malformed value, or one that is too large");
  PyObject* value = decode_value(std::string_view(bytes), pointer_or_null(hook));
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

// As plain ints: every run compares some of them.
void bind_protocol(py::module_& module) {
  const auto define = [&module](const char* name, auto value) {
    module.attr(name) = static_cast<int64_t>(value);
  };
  define("MAX_TESTS", kMaxTests);
  define("PHASE_COMPILE", kPhaseCompile);
  define("PHASE_LOAD", kPhaseLoad);
  define("PHASE_FIRST_TEST", kPhaseFirstTest);
  define("OUTCOME_NONE", Outcome::kNone);
  define("OUTCOME_VALUE", Outcome::kValue);
  define("OUTCOME_ERROR", Outcome::kError);
  define("OUTCOME_NOT_PLAIN", Outcome::kNotPlain);
  define("OUTCOME_TOO_LARGE", Outcome::kTooLarge);
  define("KILLED_FOR_CPU", KilledFor::kCpu);
  define("KILLED_FOR_WALL", KilledFor::kWall);
  define("KILLED_CANCELLED", KilledFor::kCancelled);
  define("KILLED_FOR_MEMORY", KilledFor::kMemory);
  define("UNUSED_BYTES", kUnusedBytes);
  define("EXIT_ABORTED", kExitAborted);
  define("LAYER_USER_NAMESPACE", kUserNamespace);
  define("LAYER_MOUNT_NAMESPACE", kMountNamespace);
  define("LAYER_NETWORK_NAMESPACE", kNetworkNamespace);
  define("LAYER_PID_NAMESPACE", kPidNamespace);
  define("LAYER_OWN_UID", kOwnUid);
  define("LAYER_READABLE_FILES", kReadableFiles);
}

void bind_judge(py::module_& module) {
  py::enum_<JobKind>(module, "JobKind")
      .value("CALLS", JobKind::kCalls)
      .value("STDIN", JobKind::kStdin)
      .value("PAIR", JobKind::kPair);
  py::class_<Finding>(module, "Finding")
      .def_property_readonly("outcome",
                             [](const Finding& f) { return static_cast<int>(f.outcome); })
      .def_property_readonly("payload", [](const Finding& f) { return py::bytes(f.payload); })
      .def_readonly("cpu_ns", &Finding::cpu_ns)
      .def_readonly("wall_ns", &Finding::wall_ns);
  py::class_<RunResult>(module, "RunResult")
      .def_readonly("infrastructure_error", &RunResult::infrastructure_error)
      .def_property_readonly("infrastructure_message",
                             [](const RunResult& r) { return py::bytes(r.infrastructure_message); })
      .def_readonly("is_tester", &RunResult::is_tester)
      .def_readonly("is_native", &RunResult::is_native)
      .def_readonly("first_test", &RunResult::first_test)
      .def_readonly("violation", &RunResult::violation)
      .def_readonly("tampered", &RunResult::tampered)
      .def_readonly("loading", &RunResult::loading)
      .def("test", [](const RunResult& r, size_t i) { return r.tests.at(i); })
      .def_property_readonly("test_count", [](const RunResult& r) { return r.tests.size(); })
      .def_property_readonly(
          "returned_no_value",
          [](const RunResult& r) {
            return std::any_of(r.tests.begin(), r.tests.end(), [](const Finding& finding) {
              return finding.outcome == Outcome::kNotPlain || finding.outcome == Outcome::kTooLarge;
            });
          })
      .def_readonly("out_of_memory", &RunResult::out_of_memory)
      .def_readonly("output_exceeded", &RunResult::output_exceeded)
      .def_readonly("output_matches", &RunResult::output_matches)
      .def_property_readonly("wait_status", [](const RunResult& r) { return r.report.wait_status; })
      .def_property_readonly(
          "killed_for", [](const RunResult& r) { return static_cast<int>(r.report.killed_for); })
      .def_property_readonly("phase", [](const RunResult& r) { return r.report.phase; })
      .def_property_readonly("cpu_ns", [](const RunResult& r) { return r.report.cpu_ns; })
      .def_property_readonly("wall_ns", [](const RunResult& r) { return r.report.wall_ns; })
      .def_property_readonly("peak_memory_bytes",
                             [](const RunResult& r) { return r.report.peak_memory_bytes; })
      .def_property_readonly("stdout", [](const RunResult& r) { return py::bytes(r.stdout_text); })
      .def_property_readonly("stderr", [](const RunResult& r) { return py::bytes(r.stderr_tail); })
      .def("lines", [](const RunResult& r, size_t i) {
        std::vector<uint64_t> lines;
        if (!r.bitmaps.empty())
          each_line(r.bitmaps[std::min(i, r.bitmaps.size() - 1)],
                    [&lines](uint64_t line) { lines.push_back(line); });
        return lines;
      });
  py::class_<JobResult>(module, "JobResult")
      .def_readonly("id", &JobResult::id)
      .def_readonly("runs", &JobResult::runs);
  py::enum_<Runner>(module, "Runner")
      .value("PYTHON", Runner::kPython)
      .value("NATIVE", Runner::kNative)
      .value("COMPILER", Runner::kCompiler);
  // The binary of a C or C++ program, as a memory file that nobody can change.
  py::class_<UniqueFd, std::shared_ptr<UniqueFd>>(module, "Binary")
      .def(py::init([](const py::bytes& content) {
        return std::make_shared<UniqueFd>(sealed_file("stepcoder-program", std::string(content)));
      }));
  py::class_<Job>(module, "Job")
      .def(py::init<>())
      .def_readwrite("runner", &Job::runner)
      .def_property("binary", nullptr,
                    [](Job& job, std::shared_ptr<UniqueFd> file) { job.binary = std::move(file); })
      .def_property(
          "tester_binary", nullptr,
          [](Job& job, std::shared_ptr<UniqueFd> file) { job.tester_binary = std::move(file); })
      .def_readwrite("id", &Job::id)
      .def_readwrite("kind", &Job::kind)
      .def_readwrite("libraries", &Job::libraries)
      .def_readwrite("tester_libraries", &Job::tester_libraries)
      .def_readwrite("among_testers", &Job::among_testers)
      .def_property("request", nullptr,
                    [](Job& job, const py::bytes& value) { job.request = std::string(value); })
      .def_property(
          "tester_request", nullptr,
          [](Job& job, const py::bytes& value) { job.tester_request = std::string(value); })
      .def("add_stdin",
           [](Job& job, const py::bytes& text, const py::bytes& expected) {
             job.stdins.emplace_back(text);
             job.expected_stdouts.emplace_back(expected);
           })
      .def("add_test_request",
           [](Job& job, const py::bytes& value) { job.test_requests.emplace_back(value); })
      .def_readwrite("run_for_each_test", &Job::run_for_each_test)
      .def_readwrite("compares_stdout", &Job::compares_stdout)
      .def_readwrite("test_count", &Job::test_count)
      .def_readwrite("line_count", &Job::line_count)
      .def_readwrite("cpu_ns", &Job::cpu_ns)
      .def_readwrite("wall_ns", &Job::wall_ns)
      .def_readwrite("memory_bytes", &Job::memory_bytes)
      .def_readwrite("output_bytes", &Job::output_bytes)
      .def_readwrite("stop_at_first_failure", &Job::stop_at_first_failure);
  py::class_<CgroupParent>(module, "CgroupParent")
      .def_readonly("version", &CgroupParent::version)
      .def_readonly("memory", &CgroupParent::memory)
      .def_readonly("pids", &CgroupParent::pids)
      .def_readonly("missing", &CgroupParent::missing);
  py::class_<EventLoop>(module, "EventLoop")
      .def(py::init([](std::vector<std::string> python, std::vector<std::string> native,
                       std::vector<std::string> compiler, std::string preload, uint32_t slots) {
             return std::make_unique<EventLoop>(
                 WorkerCommands{std::move(python), std::move(native), std::move(compiler),
                                std::move(preload)},
                 slots);
           }),
           py::arg("python"), py::arg("native"), py::arg("compiler"), py::arg("preload"),
           py::arg("slots"))
      .def(
          "submit", [](EventLoop& loop, const Job& job) { loop.submit(job); },
          py::call_guard<py::gil_scoped_release>())
      .def("cancel", &EventLoop::cancel, py::call_guard<py::gil_scoped_release>())
      .def("next", &EventLoop::next, py::call_guard<py::gil_scoped_release>())
      .def("close", &EventLoop::close, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("missing_layers", &EventLoop::missing_layers)
      .def_property_readonly("cgroups", &EventLoop::cgroups);
  module.def("syscall_name", &syscall_name);
}

void bind_worker(py::module_& module) {
  module.def(
      "serve",
      [](std::vector<std::string> readable, std::vector<std::string> hidden, std::string scratch,
         uint64_t scratch_bytes, uint32_t own_uid, const py::object& run,
         const py::object& rehearse, const py::object& rehearse_small) {
        require(tracer::prepare());
        serve({std::move(readable), std::move(hidden), std::move(scratch), scratch_bytes, own_uid},
              run.ptr(), rehearse.ptr(), rehearse_small.ptr());
      },
      py::arg("readable"), py::arg("hidden"), py::arg("scratch"), py::arg("scratch_bytes"),
      py::arg("own_uid"), py::arg("run"), py::arg("rehearse"), py::arg("rehearse_small"));
  module.def(
      "serve_native",
      [](bool compiler, std::vector<std::string> readable, std::string scratch,
         uint64_t scratch_bytes, uint32_t own_uid, const py::object& run) {
        const Guest guest = compiler ? Guest::kCompiler : Guest::kNative;
        serve({std::move(readable), {}, std::move(scratch), scratch_bytes, own_uid, guest},
              run.ptr(), nullptr, nullptr);
      },
      py::arg("compiler"), py::arg("readable"), py::arg("scratch"), py::arg("scratch_bytes"),
      py::arg("own_uid"), py::arg("run"));
  module.def("run_native", [](bool compiler, const std::vector<std::string>& argv,
                              const std::vector<std::string>& environment, int channel) {
    return native::run(compiler ? Guest::kCompiler : Guest::kNative, argv, environment, channel);
  });
  module.def("enter_phase", &child::enter_phase);
  module.def("first_test", &child::first_test);
  module.def("record_value", [](const py::object& value, const py::object& normalize) {
    require(child::record_value(value.ptr(), normalize.ptr()));
  });
  module.def("record_error",
             [](const py::object& error) { require(child::record_error(error.ptr())); });
  module.def("trace", [](const py::object& code) {
    PyObject* traced = tracer::start(code.ptr());
    require(traced != nullptr);
    return py::reinterpret_steal<py::object>(traced);
  });
  module.def("refuse_introspection", [](const py::str& filename, const py::function& leave) {
    require(direct::refuse_introspection(filename.ptr(), leave.ptr()));
  });
  module.def("watch_classes",
             [](const py::function& on_class) { require(direct::watch_classes(on_class.ptr())); });
  module.def("freeze", [](const py::list& classes, bool immutable) {
    direct::freeze(classes.ptr(), immutable);
  });
  module.def("retrace", [] { require(tracer::restart()); });
  module.def("note_tampering", [] {
    if (!tracer::intact()) tracer::break_seal();
  });
}

}  // namespace
}  // namespace stepcoder

PYBIND11_MODULE(_launcher, module) {
  module.doc() = "The sandbox's launcher, built from csrc/.";
  module.def("encode", &stepcoder::encode, py::arg("value"), py::arg("max_bytes"),
             py::arg("hook") = py::none());
  // By default as much as a sandboxed process may need; the judge asks for less.
  module.def("decode", &stepcoder::decode, py::arg("data"), py::arg("hook") = py::none(),
             py::arg("max_bytes") = uint64_t{1} << 30);
  module.def("weigh",
             [](const py::bytes& data) { return stepcoder::weigh_bytes(std::string_view(data)); });
  stepcoder::bind_protocol(module);
  stepcoder::bind_judge(module);
  stepcoder::bind_worker(module);
  stepcoder::bind_testing(module);
}
