// Stands for XIR's header of the same name.
#pragma once
#include <any>

namespace xir {
using any = std::any;
}
