// See tracer.h: Python 3.11.
//
// Probes in the bytecode (probes.h) test AssertionError for truth. In 3.11 `type` leaves its slot
// for truth tests (nb_bool) empty, so this file puts a function there. It finds the probe at which
// the running frame stands, records the line and turns the probe into a jump over itself.
//
// Where probes could miss a line or report one too many, the interpreter's trace hook takes over
// for the rest of the run (trace_everything). It is slow and always right.
#include "guest/tracer.h"

#if PY_VERSION_HEX < 0x030C0000

#include <algorithm>
#include <vector>

#include "guest/copied_code.h"
#include "guest/probes.h"

#define Py_BUILD_CORE 1
#include <internal/pycore_frame.h>
#undef Py_BUILD_CORE

namespace stepcoder::tracer {
namespace {

PyObject* g_code = nullptr;
bool g_everything = false;  // the trace hook is on
probes::Probed g_probed;    // its probes in the order of their addresses
std::vector<const probes::Probe*> g_disarmed;

void on_probe_hit(const _Py_CODEUNIT* unit) {
  const auto probe = std::lower_bound(
      g_probed.probes.begin(), g_probed.probes.end(), unit,
      [](const probes::Probe& one, const _Py_CODEUNIT* at) { return one.unit < at; });
  if (probe == g_probed.probes.end() || probe->unit != unit) return;
  note(probe->line);
  probes::disarm(*probe);
  g_disarmed.push_back(&*probe);
}

// nb_bool of `type`: whether a class is true.
int is_true(PyObject* self) {
  if (self == PyExc_AssertionError) {
    const _PyInterpreterFrame* frame = PyThreadState_Get()->cframe->current_frame;
    if (frame != nullptr) on_probe_hit(frame->prev_instr - 1);
    return 1;
  }
  // What the interpreter does if this slot is empty: a metaclass can define a length.
  const PyTypeObject* type = Py_TYPE(self);
  lenfunc length = nullptr;
  if (type->tp_as_mapping != nullptr) length = type->tp_as_mapping->mp_length;
  if (length == nullptr && type->tp_as_sequence != nullptr)
    length = type->tp_as_sequence->sq_length;
  if (length == nullptr) return 1;
  const Py_ssize_t found = length(self);
  return found > 0 ? 1 : static_cast<int>(found);
}

int on_event(PyObject* /*self*/, PyFrameObject* frame, int what, PyObject* /*argument*/) {
  if (what == PyTrace_LINE) {
    PyCodeObject* code = PyFrame_GetCode(frame);
    if (copied_code::is_program_filename(code->co_filename)) note(PyFrame_GetLineNumber(frame));
    Py_DECREF(code);
  }
  return 0;
}

// Switches from probes to the trace hook, in every thread.
void trace_everything() {
  if (g_everything) return;
  g_everything = true;
  for (const probes::Probe& probe : g_probed.probes) probes::disarm(probe);
  PyEval_SetTrace(on_event, nullptr);
  PyThreadState* thread = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
  for (; thread != nullptr; thread = PyThreadState_Next(thread)) {
    thread->c_tracefunc = on_event;
    thread->cframe->use_tracing = 255;
  }
}

// Replaces sys.settrace in a child, so that a program cannot remove the trace hook. New threads
// call it when they start, and so get the hook too.
PyObject* replace_settrace(PyObject* /*self*/, PyObject* /*function*/) {
  if (g_everything) PyEval_SetTrace(on_event, nullptr);
  Py_RETURN_NONE;
}

PyMethodDef g_settrace{"settrace", replace_settrace, METH_O, nullptr};

// False if the program has changed file names with _imp._fix_co_filename.
bool filename_unchanged(PyObject* code) {
  if (!copied_code::is_program_filename(reinterpret_cast<PyCodeObject*>(code)->co_filename))
    return false;
  PyObject* constants = reinterpret_cast<PyCodeObject*>(code)->co_consts;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(constants); ++i) {
    PyObject* constant = PyTuple_GET_ITEM(constants, i);
    if (PyCode_Check(constant) && !filename_unchanged(constant)) return false;
  }
  return true;
}

// True if a frame of the program may have begun and not ended; a probe could then report a line on
// which the frame was suspended, and settrace would not.
bool program_is_on_stack() {
  // Beside the constants, functions and frames hold references to ambiguous code.
  for (PyObject* code : g_probed.ambiguous)
    if (Py_REFCNT(code) > 1) return true;
  PyThreadState* thread = PyThreadState_Get();
  if (PyInterpreterState_ThreadHead(thread->interp) != thread ||
      PyThreadState_Next(thread) != nullptr)
    return true;
  const _PyInterpreterFrame* frame = thread->cframe->current_frame;
  for (; frame != nullptr; frame = frame->previous)
    if (copied_code::is_program_filename(frame->f_code->co_filename)) return true;
  return false;
}

}  // namespace

bool prepare() {
  PyObject* threading = PyImport_ImportModule("threading");
  if (threading == nullptr) return false;
  PyObject* function = PyCFunction_New(&g_settrace, nullptr);
  // threading calls sys.settrace(_trace_hook) in each new thread if the hook is set.
  bool done = function != nullptr && PySys_SetObject("settrace", function) == 0 &&
              PyObject_SetAttrString(threading, "_trace_hook", function) == 0;
  Py_XDECREF(function);
  Py_DECREF(threading);
  PyType_Type.tp_as_number->nb_bool = is_true;
  return done;
}

PyObject* start(PyObject* code) {
  if (g_code != nullptr || !PyCode_Check(code)) return Py_NewRef(code);  // called by a program
  // Never released: probes point into it.
  g_code = probes::add(reinterpret_cast<PyCodeObject*>(code), g_probed);
  if (g_code == nullptr) {
    g_probed = {};
    if (PyErr_Occurred() != nullptr) return nullptr;
    g_code = Py_NewRef(code);
    trace_everything();
  }
  if (!copied_code::watch(g_code, trace_everything)) return nullptr;
  std::sort(g_probed.probes.begin(), g_probed.probes.end(),
            [](const probes::Probe& a, const probes::Probe& b) { return a.unit < b.unit; });
  return Py_NewRef(g_code);
}

void forget() {
  g_disarmed.clear();
  g_probed = {};
  Py_CLEAR(g_code);
  copied_code::forget();
}

bool restart() {
  if (g_code == nullptr || g_everything) return true;
  if (program_is_on_stack()) {
    trace_everything();
    return true;
  }
  for (const probes::Probe* probe : g_disarmed) probes::arm(*probe);
  g_disarmed.clear();
  return true;
}

bool intact() {
  if (g_code == nullptr) return true;
  return filename_unchanged(g_code) &&
         (!g_everything || PyThreadState_Get()->c_tracefunc == on_event);
}

}  // namespace stepcoder::tracer

#endif
