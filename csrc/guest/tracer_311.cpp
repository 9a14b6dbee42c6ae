// See tracer.h: Python 3.11.
//
// Probes in the bytecode (probes.h) test the truth of AssertionError. Classes have no truth of
// their own in 3.11, so the slot for it is free: it becomes a function here, which finds the probe
// that the running frame stands at, notes its line, and turns it into a jump over itself.
//
// Where probes could miss a line or tell one too many, the interpreter's trace hook, which is slow
// and always right, takes over for good: see trace_everything().
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

void reach(const _Py_CODEUNIT* unit) {
  const auto probe = std::lower_bound(
      g_probed.probes.begin(), g_probed.probes.end(), unit,
      [](const probes::Probe& one, const _Py_CODEUNIT* at) { return one.unit < at; });
  if (probe == g_probed.probes.end() || probe->unit != unit) return;
  note(probe->line);
  probes::disarm(*probe);
  g_disarmed.push_back(&*probe);
}

// The truth of a class.
int is_true(PyObject* self) {
  if (self == PyExc_AssertionError) {
    const _PyInterpreterFrame* frame = PyThreadState_Get()->cframe->current_frame;
    if (frame != nullptr) reach(frame->prev_instr - 1);
    return 1;
  }
  // What the interpreter does where this slot is empty: a metaclass can have a length.
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
    if (copied_code::is_the_programs(code->co_filename)) note(PyFrame_GetLineNumber(frame));
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

// Stands for sys.settrace in a child: a program cannot take the trace hook away, and threads, whose
// start calls it, get it too.
PyObject* replace_settrace(PyObject* /*self*/, PyObject* /*function*/) {
  if (g_everything) PyEval_SetTrace(on_event, nullptr);
  Py_RETURN_NONE;
}

PyMethodDef g_settrace{"settrace", replace_settrace, METH_O, nullptr};

// False where _imp._fix_co_filename, which the import system has for itself, was put to work.
bool keeps_its_name(PyObject* code) {
  if (!copied_code::is_the_programs(reinterpret_cast<PyCodeObject*>(code)->co_filename))
    return false;
  PyObject* constants = reinterpret_cast<PyCodeObject*>(code)->co_consts;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(constants); ++i) {
    PyObject* constant = PyTuple_GET_ITEM(constants, i);
    if (PyCode_Check(constant) && !keeps_its_name(constant)) return false;
  }
  return true;
}

// Whether a frame of the program's may have begun already, in a way that makes a difference.
bool is_amid() {
  // Elsewhere than in the constants, ambiguous code is held by its functions or by its frames.
  for (PyObject* code : g_probed.ambiguous)
    if (Py_REFCNT(code) > 1) return true;
  PyThreadState* thread = PyThreadState_Get();
  if (PyInterpreterState_ThreadHead(thread->interp) != thread ||
      PyThreadState_Next(thread) != nullptr)
    return true;
  const _PyInterpreterFrame* frame = thread->cframe->current_frame;
  for (; frame != nullptr; frame = frame->previous)
    if (copied_code::is_the_programs(frame->f_code->co_filename)) return true;
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
  PyObject* filename = reinterpret_cast<PyCodeObject*>(code)->co_filename;
  if (!copied_code::watch(filename, trace_everything)) return nullptr;
  // Kept for good: probes point into it.
  g_code = probes::add(reinterpret_cast<PyCodeObject*>(code), g_probed);
  if (g_code == nullptr) {
    g_probed = {};
    if (PyErr_Occurred() != nullptr) return nullptr;
    g_code = Py_NewRef(code);
    trace_everything();
    return Py_NewRef(code);
  }
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
  if (is_amid()) {
    trace_everything();
    return true;
  }
  for (const probes::Probe* probe : g_disarmed) probes::arm(*probe);
  g_disarmed.clear();
  return true;
}

bool intact() {
  if (g_code == nullptr) return true;
  return !copied_code::renamed() && keeps_its_name(g_code) &&
         (!g_everything || PyThreadState_Get()->c_tracefunc == on_event);
}

}  // namespace stepcoder::tracer

#endif
