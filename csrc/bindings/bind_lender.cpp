// Lender: several things, one holder each; who finds none free waits, first come, first served.
//
// Here and not in Python, because nothing may come between taking a thing and noting who has it. An interrupt comes
// between two bytecodes and a finalizer while an object is made: both may lose what Python code has just taken, or come
// back to the lock that it holds. Here the GIL is the only lock, and no line of Python runs while anything is half
// done.
#include <algorithm>
#include <deque>
#include <new>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"

namespace ek {

namespace py = pybind11;

namespace {

constexpr Py_ssize_t kNone = -1;

struct Lease;

struct Lender {
  PyObject_HEAD PyObject* things;  // a tuple
  std::vector<Py_ssize_t> free;    // as long as the tuple at most, which is reserved: giving back allocates nothing
  std::vector<Lease*> holders;     // of each thing, or null
  std::deque<Lease*> waiting;
};

/// What a caller holds. A thing goes back when the with statement ends, or else when the last reference to this goes.
struct Lease {
  PyObject_HEAD Lender* lender;
  Py_ssize_t slot;          // of the thing that it holds
  PyThread_type_lock gate;  // where its thread waits for one
  unsigned long thread;     // that entered it
};

PyTypeObject* g_lease;

Lender* lender_of(PyObject* self) { return reinterpret_cast<Lender*>(self); }
Lease* lease_of(PyObject* self) { return reinterpret_cast<Lease*>(self); }

void hold(Lender& lender, Lease& lease, Py_ssize_t slot) {
  lease.slot = slot;
  lender.holders[static_cast<size_t>(slot)] = &lease;
}

/// To the first who waits.
void pass_on(Lender& lender, Py_ssize_t slot) {
  if (lender.waiting.empty()) {
    lender.holders[static_cast<size_t>(slot)] = nullptr;
    lender.free.push_back(slot);
    return;
  }
  Lease& next = *lender.waiting.front();
  lender.waiting.pop_front();
  hold(lender, next, slot);
  PyThread_release_lock(next.gate);
}

void give_back(Lease& lease) {
  if (lease.slot == kNone) return;
  const Py_ssize_t slot = lease.slot;
  lease.slot = kNone;
  pass_on(*lease.lender, slot);
}

/// Whether this thread has everything itself, so that it would wait for ever.
bool has_all(const Lender& lender, unsigned long thread) {
  return std::all_of(lender.holders.begin(), lender.holders.end(),
                     [thread](const Lease* holder) { return holder != nullptr && holder->thread == thread; });
}

PyObject* refused() {
  try {
    PyErr_SetString(
        py::module_::import("edgekern.errors").attr("EdgekernError").ptr(),
        "InferenceSession: this thread has all arenas already, in a trace that has not ended or a run that "
        "the garbage collector came into, and would wait for ever; close the trace, or give it more arenas");
  } catch (py::error_already_set& error) {
    error.restore();
  }
  return nullptr;
}

/// False with an exception: a signal's handler has raised it, and the lease holds nothing and is nowhere in the row.
bool wait(Lender& lender, Lease& lease) {
  lease.gate = PyThread_allocate_lock();
  try {
    if (lease.gate == nullptr) throw std::bad_alloc();
    lender.waiting.push_back(&lease);
  } catch (const std::bad_alloc&) {
    if (lease.gate != nullptr) PyThread_free_lock(lease.gate);
    lease.gate = nullptr;
    PyErr_NoMemory();
    return false;
  }
  PyThread_acquire_lock(lease.gate, NOWAIT_LOCK);
  bool interrupted = false;
  while (lease.slot == kNone && !interrupted) {
    {
      const WithoutGil released;
      PyThread_acquire_lock_timed(lease.gate, -1, 1);
    }
    interrupted = lease.slot == kNone && PyErr_CheckSignals() != 0;  // a handler may run anything, even end the wait
  }
  if (interrupted && lease.slot == kNone) {
    lender.waiting.erase(std::find(lender.waiting.begin(), lender.waiting.end(), &lease));
  } else if (interrupted) {
    give_back(lease);
  }
  PyThread_release_lock(lease.gate);  // as a lock is freed
  PyThread_free_lock(lease.gate);
  lease.gate = nullptr;
  return !interrupted;
}

PyObject* lease_enter(PyObject* self, PyObject*) {
  Lease& lease = *lease_of(self);
  Lender& lender = *lease.lender;
  if (lease.slot != kNone || lease.gate != nullptr) {
    PyErr_SetString(PyExc_RuntimeError, "Lease: it is entered already; ask for another with lend()");
    return nullptr;
  }
  lease.thread = PyThread_get_thread_ident();
  if (!lender.free.empty()) {
    hold(lender, lease, lender.free.back());  // what was used last is in the caches
    lender.free.pop_back();
  } else if (has_all(lender, lease.thread)) {
    return refused();
  } else if (!wait(lender, lease)) {
    return nullptr;
  }
  return Py_NewRef(PyTuple_GET_ITEM(lender.things, lease.slot));
}

PyObject* lease_exit(PyObject* self, PyObject* const*, Py_ssize_t) {
  give_back(*lease_of(self));
  Py_RETURN_NONE;
}

void lease_dealloc(PyObject* self) {
  give_back(*lease_of(self));
  Py_DECREF(reinterpret_cast<PyObject*>(lease_of(self)->lender));
  PyTypeObject* const type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(reinterpret_cast<PyObject*>(type));
}

PyObject* lend(PyObject* self, PyObject*) {
  auto* const lease = PyObject_New(Lease, g_lease);
  if (lease == nullptr) return nullptr;
  lease->lender = lender_of(Py_NewRef(self));
  lease->slot = kNone;
  lease->gate = nullptr;
  lease->thread = 0;
  return reinterpret_cast<PyObject*>(lease);
}

/// In a forked child: nothing counts that was lent before. What other threads of the parent hold, they never give back
/// here, and those of them that wait are gone; a lease of the thread that forked holds nothing any more, either.
PyObject* after_fork(PyObject* self, PyObject*) {
  Lender& lender = *lender_of(self);
  const unsigned long me = PyThread_get_thread_ident();
  auto& row = lender.waiting;
  row.erase(std::remove_if(row.begin(), row.end(), [me](const Lease* lease) { return lease->thread != me; }),
            row.end());
  for (size_t slot = 0; slot < lender.holders.size(); ++slot) {
    if (lender.holders[slot] != nullptr) give_back(*lender.holders[slot]);
  }
  Py_RETURN_NONE;
}

PyObject* num_free(PyObject* self, void*) { return PyLong_FromSize_t(lender_of(self)->free.size()); }
PyObject* num_waiting(PyObject* self, void*) { return PyLong_FromSize_t(lender_of(self)->waiting.size()); }

PyObject* lender_new(PyTypeObject* type, PyObject* args, PyObject* keywords) {
  PyObject* things = nullptr;
  char name[] = "things";
  char* names[] = {name, nullptr};
  if (PyArg_ParseTupleAndKeywords(args, keywords, "O!:Lender", names, &PyTuple_Type, &things) == 0) return nullptr;
  PyObject* const self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  Lender& lender = *lender_of(self);
  new (&lender.free) std::vector<Py_ssize_t>();
  new (&lender.holders) std::vector<Lease*>();
  new (&lender.waiting) std::deque<Lease*>();
  lender.things = Py_NewRef(things);
  try {
    const Py_ssize_t count = PyTuple_GET_SIZE(things);
    lender.holders.resize(static_cast<size_t>(count));
    for (Py_ssize_t slot = count; slot-- > 0;) lender.free.push_back(slot);
  } catch (const std::bad_alloc&) {
    Py_DECREF(self);
    return PyErr_NoMemory();
  }
  return self;
}

void lender_dealloc(PyObject* self) {
  Lender& lender = *lender_of(self);
  lender.free.~vector();
  lender.holders.~vector();
  lender.waiting.~deque();
  Py_XDECREF(lender.things);
  PyTypeObject* const type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(reinterpret_cast<PyObject*>(type));
}

template <typename Function>
void* pointer(Function function) {
  return reinterpret_cast<void*>(function);
}

PyMethodDef g_lease_methods[] = {
    {"__enter__", lease_enter, METH_NOARGS, nullptr},
    {"__exit__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&lease_exit)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyType_Slot g_lease_slots[] = {
    {Py_tp_methods, g_lease_methods},
    {Py_tp_dealloc, pointer(&lease_dealloc)},
    {0, nullptr},
};
PyType_Spec g_lease_spec = {"edgekern._core.Lease", sizeof(Lease), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, g_lease_slots};

PyMethodDef g_lender_methods[] = {
    {"lend", lend, METH_NOARGS, nullptr},
    {"after_fork", after_fork, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyGetSetDef g_lender_properties[] = {
    {"free", num_free, nullptr, nullptr, nullptr},
    {"waiting", num_waiting, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};
PyType_Slot g_lender_slots[] = {
    {Py_tp_new, pointer(&lender_new)},
    {Py_tp_dealloc, pointer(&lender_dealloc)},
    {Py_tp_methods, g_lender_methods},
    {Py_tp_getset, g_lender_properties},
    {0, nullptr},
};
PyType_Spec g_lender_spec = {"edgekern._core.Lender", sizeof(Lender), 0, Py_TPFLAGS_DEFAULT, g_lender_slots};

PyObject* made(PyType_Spec& spec) {
  PyObject* const type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  return type;
}

}  // namespace

void bind_lender(py::module_& m) {
  PyObject* const lease = made(g_lease_spec);  // never released
  g_lease = reinterpret_cast<PyTypeObject*>(lease);
  m.attr("Lease") = py::handle(lease);
  m.attr("Lender") = py::reinterpret_steal<py::object>(made(g_lender_spec));
}

}  // namespace ek
