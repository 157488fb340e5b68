// Stands for XIR's header of the same name.
#pragma once
#include <cstdlib>
#include <string>
#include <vector>

#include "xir/util/any.hpp"

namespace xir {

class Subgraph {
 public:
  virtual bool is_leaf() const = 0;
  virtual bool has_attr(const std::string& key) const = 0;
  virtual const xir::any get_attr(const std::string& key) const = 0;
  template <typename Dtype>
  const Dtype get_attr(const std::string& key) const {
    const xir::any value = this->get_attr(key);
    if (std::any_cast<Dtype>(&value) == nullptr) std::abort();  // as XIR does
    return std::any_cast<Dtype>(value);
  }
  virtual std::vector<Subgraph*> children_topological_sort() = 0;
  virtual const std::vector<const Subgraph*> children_topological_sort() const = 0;
  virtual ~Subgraph() = default;
};

}  // namespace xir
