// Stands for XIR's header of the same name.
#pragma once
#include <memory>
#include <string>

#include "xir/graph/subgraph.hpp"

namespace xir {

class Graph {
 public:
  static std::unique_ptr<Graph> deserialize(const std::string& file_path);
  virtual const Subgraph* get_root_subgraph() const = 0;
  virtual Subgraph* get_root_subgraph() = 0;
  virtual ~Graph() = default;
};

}  // namespace xir
