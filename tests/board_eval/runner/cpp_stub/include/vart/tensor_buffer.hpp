// Stands for VART's header of the same name.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace xir {
class Tensor;
}

namespace vart {

class TensorBuffer {
 public:
  explicit TensorBuffer(const xir::Tensor* tensor);
  virtual ~TensorBuffer() = default;
  enum class location_t { HOST_VIRT = 0, HOST_PHY = 1, DEVICE_0 = 2 };
  virtual std::pair<std::uint64_t, std::size_t> data(const std::vector<std::int32_t> idx = {}) = 0;
  virtual location_t get_location() const { return location_t::HOST_VIRT; }
  virtual std::pair<uint64_t, size_t> data_phy(const std::vector<std::int32_t> /*idx*/) { return {0u, 0u}; }
  virtual void sync_for_read(uint64_t /*offset*/, size_t /*size*/) {}
  virtual void sync_for_write(uint64_t /*offset*/, size_t /*size*/) {}
  const xir::Tensor* get_tensor() const;

 protected:
  const xir::Tensor* tensor_;
};

}  // namespace vart
