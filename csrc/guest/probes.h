// Line probes in the bytecode of Python 3.11.
//
// Takes a code object and gives a copy of it, and of the code in its constants, that calls out
// wherever settrace would report a line. A probe is two instructions, LOAD_ASSERTION_ERROR and
// POP_JUMP_FORWARD_IF_TRUE 0: it needs no constant, no name and no object that a program could
// find, and does nothing wherever a copy of it ends up. It calls out because tracer_311.cpp stands
// for the truth of classes.
#pragma once

#include <Python.h>

#if PY_VERSION_HEX < 0x030C0000

#include <vector>

namespace stepcoder::probes {

struct Probe {
  _Py_CODEUNIT* unit;  // the first of its two instructions, in the code object
  int line;
};

struct Probed {
  // In the order of their addresses once sorted; all armed.
  std::vector<Probe> probes;
  // Copies in which a frame, suspended and then resumed, can come to a probe on the line that it
  // was suspended on. settrace would not report that line, if it does not enter it anew.
  std::vector<PyObject*> ambiguous;
};

// Returns the copy (a new reference); nullptr with a Python error set, or without one if the code
// is not built as the compiler builds it.
PyObject* add(PyCodeObject* code, Probed& probed);

void arm(const Probe& probe);
void disarm(const Probe& probe);

}  // namespace stepcoder::probes

#endif
