// Stands for XIR's header of the same name: as much of it as a program that runs a compiled file sees, with XIR's signatures.
#pragma once
#include <cstdint>

namespace xir {

struct DataType {
  enum Type { INT, UINT, XINT, XUINT, FLOAT, BFLOAT, UNKNOWN };
  Type type;
  std::int32_t bit_width;
};

}  // namespace xir
