//! Admission to the queue: how many calls and bytes it holds, and whose they are.
//!
//! Whatever holds room has a [`Reservation`], and gives it back when dropped: a job that leaves the queue in any way
//! does so exactly once. The numbers have a lock of their own, which is the innermost of all: it is held for the few
//! additions of one method here and nothing else is called meanwhile. So a reservation may be dropped anywhere, also
//! under the lock of the queue's state, and taking one needs no other lock.
//!
//! Invariants
//! - The totals are the sums of what live reservations hold.
//! - A tenant that has half of the room with other things is given no more bytes, nor a function more calls.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{AddAssign, SubAssign};
use std::sync::{Arc, Mutex};

use model::function::FunctionKey;
use model::sync::lock;

/// The part of the room, one of so many, that timers have beside what all have.
const TIMERS_SHARE: u64 = 10;

/// Calls, and the bytes that they hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::queue) struct Usage {
    pub(in crate::queue) calls: usize,
    /// Calls among them that are callbacks, or leave one.
    pub(in crate::queue) callbacks: usize,
    pub(in crate::queue) bytes: u64,
}

impl Usage {
    /// One call with so many bytes, and no callback.
    pub(in crate::queue) fn call(bytes: u64) -> Self {
        Self { calls: 1, callbacks: 0, bytes }
    }

    /// Bytes alone.
    pub(in crate::queue) fn bytes(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.callbacks += other.callbacks;
        self.bytes += other.bytes;
    }
}

impl Usage {
    /// Returns the rest without `other`, of which some may have been taken out already.
    pub(in crate::queue) fn less(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(other.calls),
            callbacks: self.callbacks.saturating_sub(other.callbacks),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

impl SubAssign for Usage {
    fn sub_assign(&mut self, other: Self) {
        self.calls -= other.calls;
        self.callbacks -= other.callbacks;
        self.bytes -= other.bytes;
    }
}

/// An owner of room in the queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::queue) enum Tenant {
    /// One function, with its calls.
    Function(FunctionKey),
    /// All receivers together, with their callbacks and the responses that are kept for them.
    Receivers,
}

/// The sender of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Sender {
    Client,
    /// A schedule, which has some room that clients cannot take.
    Timer,
}

/// A limit that was reached.
#[derive(Debug)]
pub(in crate::queue) struct Full {
    /// Everything that the queue holds already, in words.
    pub(in crate::queue) what: String,
}

/// The room of a queue. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(in crate::queue) struct Quota(Arc<Limited>);

#[derive(Debug)]
struct Limited {
    max_calls: u64,
    max_bytes: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: Usage,
    tenants: BTreeMap<Arc<Tenant>, Usage>,
}

impl Held {
    fn of(&self, tenant: &Tenant) -> Usage {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    fn add(&mut self, tenant: Arc<Tenant>, usage: Usage) {
        self.total += usage;
        *self.tenants.entry(tenant).or_default() += usage;
    }
}

impl Quota {
    /// Returns a quota with these limits.
    pub(in crate::queue) fn new(max_calls: usize, max_bytes: u64) -> Self {
        Self(Arc::new(Limited { max_calls: max_calls as u64, max_bytes, held: Mutex::default() }))
    }

    /// Reserves room for a call. `announced` bytes must have room as well, but are taken when they come: a client may
    /// be slow, or never send them.
    ///
    /// A tenant that has half of the room gets no more, so that others are queued while it has too much; and receivers
    /// are anybody, who may take their time: calls with callbacks have half of the room together.
    pub(in crate::queue) fn reserve(
        &self,
        tenant: Tenant,
        usage: Usage,
        announced: u64,
        sender: Sender,
    ) -> Result<Reservation, Full> {
        let (mut held, calls) = (lock(&self.0.held), self.0.max_calls);
        let half = calls.div_ceil(2);
        if usage.callbacks > 0 && held.total.callbacks as u64 >= half {
            return full(format!("{half} calls with callbacks (half of queue.max_calls)"));
        }
        let room = room(calls, sender);
        if held.total.calls as u64 >= room {
            return full(format!("{calls} calls (queue.max_calls)"));
        }
        let half = room.div_ceil(2);
        if let Tenant::Function(function) = &tenant
            && held.of(&tenant).calls as u64 >= half
        {
            return full(format!("{half} calls of {function} (half of queue.max_calls)"));
        }
        self.0.check(&held, &tenant, 0, usage.bytes.saturating_add(announced), sender)?;
        Ok(self.reservation(&mut held, tenant, usage))
    }

    /// Holds so much whatever the limits are: what is in the queue already, or follows from what is.
    pub(in crate::queue) fn hold(&self, tenant: Tenant, usage: Usage) -> Reservation {
        self.reservation(&mut lock(&self.0.held), tenant, usage)
    }

    /// Sum of all that is held.
    pub(in crate::queue) fn total(&self) -> Usage {
        lock(&self.0.held).total
    }

    /// Whether nobody holds anything.
    #[cfg(test)]
    pub(in crate::queue) fn is_empty(&self) -> bool {
        self.total() == Usage::default() && lock(&self.0.held).tenants.is_empty()
    }

    fn reservation(&self, held: &mut Held, tenant: Tenant, usage: Usage) -> Reservation {
        // A tenant's name is held once, however many calls it has.
        let known = held.tenants.get_key_value(&tenant).map(|(known, _)| known.clone());
        let tenant = known.unwrap_or_else(|| Arc::new(tenant));
        held.add(tenant.clone(), usage);
        Reservation { quota: self.clone(), tenant, usage }
    }
}

impl Limited {
    /// Refuses `more` bytes for something that has `own` already if its tenant has half of the room with other things;
    /// so a tenant has that and one thing more at most.
    fn check(&self, held: &Held, tenant: &Tenant, own: u64, more: u64, sender: Sender) -> Result<(), Full> {
        let (bytes, room) = (self.max_bytes, room(self.max_bytes, sender));
        let half = room.div_ceil(2);
        if held.of(tenant).bytes - own >= half {
            return full(match tenant {
                Tenant::Function(function) => format!("{half} bytes for {function} (half of queue.max_size)"),
                Tenant::Receivers => format!("{half} bytes for callbacks (half of queue.max_size)"),
            });
        }
        if held.total.bytes.saturating_add(more) > room {
            return full(format!("{bytes} bytes (queue.max_size)"));
        }
        Ok(())
    }
}

/// Returns how much of a limit a sender may use.
fn room(limit: u64, sender: Sender) -> u64 {
    match sender {
        Sender::Client => limit,
        Sender::Timer => limit.saturating_add(limit.div_ceil(TIMERS_SHARE)),
    }
}

fn full<T>(what: String) -> Result<T, Full> {
    Err(Full { what })
}

/// Room that something holds in the queue, until it is dropped.
#[derive(Debug)]
pub(in crate::queue) struct Reservation {
    quota: Quota,
    tenant: Arc<Tenant>,
    usage: Usage,
}

impl Reservation {
    /// Grows to so many bytes, if it has fewer. Only clients send bodies, so there is the room of clients for this.
    pub(in crate::queue) fn grow(&mut self, bytes: u64) -> Result<(), Full> {
        let more = bytes.saturating_sub(self.usage.bytes);
        if more > 0 {
            let mut held = lock(&self.quota.0.held);
            self.quota.0.check(&held, &self.tenant, self.usage.bytes, more, Sender::Client)?;
            held.add(self.tenant.clone(), Usage::bytes(more));
            self.usage.bytes = bytes;
        }
        Ok(())
    }

    /// Gives its bytes back.
    pub(in crate::queue) fn clear(&mut self) {
        self.release(Usage::bytes(self.usage.bytes));
    }

    /// Counts as a callback from now on, whatever the limits are: the call that it comes from had room for it.
    pub(in crate::queue) fn into_callback(mut self) -> Self {
        let call = Usage { calls: 1, callbacks: 1, bytes: 0 };
        lock(&self.quota.0.held).add(self.tenant.clone(), call);
        self.usage += call;
        self
    }

    fn release(&mut self, usage: Usage) {
        self.usage -= usage;
        let mut held = lock(&self.quota.0.held);
        held.total -= usage;
        if let Entry::Occupied(mut share) = held.tenants.entry(self.tenant.clone()) {
            *share.get_mut() -= usage;
            if *share.get() == Usage::default() {
                share.remove();
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release(self.usage);
    }
}

#[cfg(test)]
mod tests;
