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

// Whether settrace's lines can be told by probes alone: see add().
enum class Exactness { kExact, kInexact, kPythonError };

// Gives in `copy` the code with probes, all armed, and adds them to `probes`.
//
// kInexact if a suspended generator could reach a probe within the line on which it was suspended:
// settrace reports that line only if the program comes to it anew, and a probe cannot tell.
Exactness add(PyCodeObject* code, PyCodeObject*& copy, std::vector<Probe>& probes);

void arm(const Probe& probe);
void disarm(const Probe& probe);

}  // namespace stepcoder::probes

#endif
