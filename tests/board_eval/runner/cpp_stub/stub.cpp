// What the stub headers promise, without a DPU. A "compiled file" is a line of text:
//
//   H W C VALUES FIX_IN FIX_OUT FINGERPRINT DEVICE...
//
// Value v of an image is the sum of (byte i times (i + v) mod 7), as int8. A job takes STUB_JOB_US microseconds on one of two
// cores. STUB_FAULT, at job STUB_AT: "abort", "throw", "status", "hang"; or "create", when the runner is made.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "vart/runner.hpp"
#include "xir/graph/graph.hpp"
#include "xir/tensor/tensor.hpp"

namespace {

std::string setting(const char* name, const char* usual) { return std::getenv(name) ? std::getenv(name) : usual; }

struct Plan {
  std::int32_t height, width, channels, values, fix_in, fix_out;
  std::uint64_t fingerprint;
  std::vector<std::string> devices;
};

class StubTensor : public xir::Tensor {
 public:
  StubTensor(std::string name, std::vector<std::int32_t> shape, std::int32_t fix) : name_(name), shape_(shape), fix_(fix) {}
  const std::string get_name() const override { return name_; }
  const std::vector<std::int32_t> get_shape() const override { return shape_; }
  const xir::DataType& get_data_type() const override { return type_; }
  const bool has_attr(const std::string& key) const override { return key == "fix_point"; }
  const xir::any get_attr(const std::string&) const override { return fix_; }

 private:
  std::string name_;
  std::vector<std::int32_t> shape_;
  std::int32_t fix_;
  xir::DataType type_{xir::DataType::XINT, 8};
};

class StubSubgraph : public xir::Subgraph {
 public:
  StubSubgraph(const Plan& plan, std::string device) : plan(plan), device_(device) {}
  bool is_leaf() const override { return children.empty(); }
  bool has_attr(const std::string& key) const override {
    return key == "device" || (key == "dpu_fingerprint" && device_ == "DPU");
  }
  const xir::any get_attr(const std::string& key) const override {
    return key == "device" ? xir::any(device_) : xir::any(plan.fingerprint);
  }
  std::vector<xir::Subgraph*> children_topological_sort() override {
    std::vector<xir::Subgraph*> out;
    for (auto& one : children) out.push_back(one.get());
    return out;
  }
  const std::vector<const xir::Subgraph*> children_topological_sort() const override {
    std::vector<const xir::Subgraph*> out;
    for (auto& one : children) out.push_back(one.get());
    return out;
  }
  Plan plan;
  std::vector<std::unique_ptr<StubSubgraph>> children;

 private:
  std::string device_;
};

class StubGraph : public xir::Graph {
 public:
  explicit StubGraph(const Plan& plan) : root_(plan, "") {
    for (const auto& device : plan.devices) root_.children.push_back(std::make_unique<StubSubgraph>(plan, device));
  }
  const xir::Subgraph* get_root_subgraph() const override { return &root_; }
  xir::Subgraph* get_root_subgraph() override { return &root_; }

 private:
  StubSubgraph root_;
};

std::mutex cores[2];
std::atomic<int> jobs{0};

class StubRunner : public vart::Runner {
 public:
  explicit StubRunner(const Plan& plan)
      : plan_(plan), in_("in", {1, plan.height, plan.width, plan.channels}, plan.fix_in), out_("out", {1, plan.values}, plan.fix_out) {}
  std::pair<uint32_t, int> execute_async(const std::vector<vart::TensorBuffer*>& input,
                                         const std::vector<vart::TensorBuffer*>& output) override {
    const int number = ++jobs;
    int status = 0;
    if (number == std::atoi(setting("STUB_AT", "0").c_str())) {
      const std::string fault = setting("STUB_FAULT", "");
      if (fault == "abort") {
        std::cerr << "F0101 stub.cpp:1] dpu timeout! core_idx = 0" << std::endl;
        std::abort();
      }
      if (fault == "throw") throw std::runtime_error("the DPU does not answer");
      if (fault == "hang") std::this_thread::sleep_for(std::chrono::hours(1));
      if (fault == "status") status = -1;
    }
    std::unique_lock<std::mutex> core(cores[number % 2]);
    std::this_thread::sleep_for(std::chrono::microseconds(std::atoi(setting("STUB_JOB_US", "500").c_str())));
    const auto in = input.at(0)->data({0, 0, 0, 0}), out = output.at(0)->data({0, 0});
    const auto* bytes = reinterpret_cast<const std::int8_t*>(in.first);
    auto* values = reinterpret_cast<std::int8_t*>(out.first);
    if (in.second != static_cast<size_t>(plan_.height * plan_.width * plan_.channels)) std::abort();
    for (int v = 0; v < plan_.values; ++v) {
      int sum = 0;
      for (size_t i = 0; i < in.second; ++i) sum += bytes[i] * static_cast<int>((i + v) % 7);
      values[v] = static_cast<std::int8_t>(sum);
    }
    return {1u, status};
  }
  int wait(int, int) override { return 0; }
  std::vector<const xir::Tensor*> get_input_tensors() override { return {&in_}; }
  std::vector<const xir::Tensor*> get_output_tensors() override { return {&out_}; }

 private:
  Plan plan_;
  StubTensor in_, out_;
};

}  // namespace

std::unique_ptr<xir::Graph> xir::Graph::deserialize(const std::string& path) {
  std::ifstream file(path);
  Plan plan;
  std::string mark;
  if (!(file >> plan.height >> plan.width >> plan.channels >> plan.values >> plan.fix_in >> plan.fix_out >> mark)) std::abort();
  plan.fingerprint = std::stoull(mark, nullptr, 16);
  for (std::string device; file >> device;) plan.devices.push_back(device);
  return std::make_unique<StubGraph>(plan);
}

vart::TensorBuffer::TensorBuffer(const xir::Tensor* tensor) : tensor_(tensor) {}

const xir::Tensor* vart::TensorBuffer::get_tensor() const { return tensor_; }

std::unique_ptr<vart::Runner> vart::Runner::create_runner(const xir::Subgraph* subgraph, const std::string& mode) {
  if (mode != "run" || subgraph->get_attr<std::string>("device") != "DPU") std::abort();
  if (setting("STUB_FAULT", "") == "create") throw std::runtime_error("no device of the DPU is open");
  return std::make_unique<StubRunner>(static_cast<const StubSubgraph*>(subgraph)->plan);
}
