// The walls' own parts for Python, for tests and for what the judge says about them.
#pragma once

#include <pybind11/pybind11.h>

namespace stepcoder {

void bind_walls(pybind11::module_& module);

}  // namespace stepcoder
