//! Gives up the rights that a process doesn't need.
//!
//! What enters: a user's name, before there are threads. What leaves: a process that is this user and has at most the
//! right to capture. What may be lost: nothing; what can't be given up is an error.
//!
//! Linux keeps rights by thread. So [`drop_to`] belongs on the main thread before any other begins, and all inherit.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, anyhow, bail};
use nix::unistd::{Group, User, getgrouplist};
use rustix::io::Errno;
use rustix::process::{
    Gid, Resource, Rlimit, Uid, getegid, geteuid, getpriority_process, getrlimit,
    setpriority_process, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use serde::{Deserialize, Serialize};

/// A user to become, written `NAME` or `NAME:GROUP`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Account {
    user: String,
    group: Option<String>,
}

impl FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Account, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let odd = |name: &str| name.is_empty() || name.contains([':', '\0', '\n']);
        match odd(user) || group.is_some_and(odd) {
            true => Err(format!("user {text:?}: write NAME or NAME:GROUP")),
            false => Ok(Account {
                user: user.to_owned(),
                group: group.map(str::to_owned),
            }),
        }
    }
}

impl TryFrom<String> for Account {
    type Error = String;

    fn try_from(text: String) -> Result<Account, String> {
        text.parse()
    }
}

impl From<Account> for String {
    fn from(account: Account) -> String {
        account.to_string()
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.user)?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

/// Becomes that user, with the user's groups, and keeps `CAP_NET_RAW` where the process has it, and nothing else. No
/// program that is executed later gets more.
///
/// # Errors
/// One line, when there is no such user or group, or when the process may not become another user.
pub fn drop_to(account: &Account) -> anyhow::Result<()> {
    let identity = identity(account)?;
    let keeps = held()? & CapabilitySet::NET_RAW;
    if geteuid() != identity.user || getegid() != identity.group {
        become_user(&identity).map_err(|error| match error {
            Errno::PERM => anyhow!(
                "become user {account}: only root can; start as root, or as {account} without --user"
            ),
            error => anyhow!("become user {account}: {error}"),
        })?;
    }
    let sets = CapabilitySets {
        effective: keeps,
        permitted: keeps,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).context("give up capabilities")?;
    set_no_new_privs(true).context("refuse new privileges")?;
    match held()? == keeps && geteuid() == identity.user {
        true => Ok(()),
        false => bail!("become user {account}: the system has left more rights than asked for"),
    }
}

fn held() -> anyhow::Result<CapabilitySet> {
    Ok(capabilities(None).context("read capabilities")?.permitted)
}

struct Identity {
    user: Uid,
    group: Gid,
    groups: Vec<Gid>,
}

fn identity(account: &Account) -> anyhow::Result<Identity> {
    let name = &account.user;
    let user = User::from_name(name)
        .with_context(|| format!("look up user {name:?}"))?
        .ok_or_else(|| anyhow!("there is no user {name:?}"))?;
    let group = match &account.group {
        None => user.gid,
        Some(name) => {
            let group =
                Group::from_name(name).with_context(|| format!("look up group {name:?}"))?;
            group
                .ok_or_else(|| anyhow!("there is no group {name:?}"))?
                .gid
        }
    };
    let name = std::ffi::CString::new(name.as_str()).context("user name")?;
    let groups = getgrouplist(&name, group).context("look up the user's groups")?;
    Ok(Identity {
        user: Uid::from_raw(user.uid.as_raw()),
        group: Gid::from_raw(group.as_raw()),
        groups: groups.iter().map(|g| Gid::from_raw(g.as_raw())).collect(),
    })
}

fn become_user(identity: &Identity) -> rustix::io::Result<()> {
    // Otherwise the last step would take all rights; the caller gives up what it doesn't need.
    set_keep_capabilities(true)?;
    set_thread_groups(&identity.groups)?;
    let group = identity.group;
    set_thread_res_gid(group, group, group)?;
    let user = identity.user;
    set_thread_res_uid(user, user, user)?;
    set_keep_capabilities(false)
}

/// Makes the process yield to others: 0, as it was, to 19.
///
/// # Errors
/// The system's words.
pub fn set_nice(nice: u8) -> anyhow::Result<()> {
    if nice == 0 {
        return Ok(());
    }
    if nice > 19 {
        bail!("nice {nice} is not from 0 to 19");
    }
    setpriority_process(None, i32::from(nice)).context("set niceness")
}

/// The niceness of a thread that must not wait long: it reads what the kernel keeps for some milliseconds only.
const AHEAD: i32 = -5;

/// Lets threads of this process call [`get_ahead`] later, also once its other rights are given up. Without effect
/// where the process may not raise its limits (`CAP_SYS_RESOURCE`); what the system grants anyhow (`LimitNICE=`) stays.
pub fn allow_ahead() {
    // The kernel counts from 20 downwards (getrlimit(2), RLIMIT_NICE).
    let needed = Some((20 - AHEAD).unsigned_abs().into());
    let before = getrlimit(Resource::Nice);
    let enough = |limit: Option<u64>| limit.is_none() || limit >= needed;
    let limit = Rlimit {
        current: if enough(before.current) {
            before.current
        } else {
            needed
        },
        maximum: if enough(before.maximum) {
            before.maximum
        } else {
            needed
        },
    };
    // Without it capture works too, and threads say whether they got ahead.
    let _ = setrlimit(Resource::Nice, limit);
}

/// Puts the calling thread ahead of others. False where the process has no right to that, or has a niceness already:
/// somebody decided otherwise.
pub fn get_ahead() -> bool {
    // For Linux "the process" 0 is this thread.
    getpriority_process(None) == Ok(0) && setpriority_process(None, AHEAD).is_ok()
}

/// Puts the calling thread back among all others.
pub fn queue_up() {
    // To yield is everybody's right.
    let _ = setpriority_process(None, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_a_user_and_perhaps_a_group() {
        for text in ["nobody", "www-data:adm"] {
            let account: Account = text.parse().unwrap();
            assert_eq!(account.to_string(), text);
        }
        for text in ["", ":adm", "nobody:", "a:b:c"] {
            let error = text.parse::<Account>().unwrap_err();
            assert!(error.contains("NAME:GROUP"), "{error}");
        }
    }

    #[test]
    fn who_is_not_there_is_named() {
        for (text, missing) in [
            ("no-such-user", "no user \"no-such-user\""),
            ("root:no-such-group", "no group \"no-such-group\""),
        ] {
            let error = drop_to(&text.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }

    #[test]
    fn a_thread_gets_ahead_where_it_may_and_no_other_does() {
        let before = getpriority_process(None).unwrap();
        let may = capabilities(None).unwrap().effective;
        allow_ahead();
        let thread = std::thread::spawn(|| (get_ahead(), getpriority_process(None).unwrap()));
        let (ahead, nice) = thread.join().unwrap();
        assert_eq!(nice, if ahead { AHEAD } else { before });
        assert!(ahead || before != 0 || !may.contains(CapabilitySet::SYS_NICE));
        let yielding = std::thread::spawn(|| {
            setpriority_process(None, 19).unwrap();
            get_ahead()
        });
        assert!(!yielding.join().unwrap());
        assert_eq!(getpriority_process(None).unwrap(), before);
    }

    #[test]
    fn niceness_has_a_range() {
        assert!(set_nice(20).is_err());
        set_nice(0).unwrap();
    }

    /// Rights are those of a thread, so one that ends can give its own up.
    #[test]
    fn only_the_right_to_capture_is_left() {
        if !geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let status = std::thread::spawn(|| {
            drop_to(&"nobody".parse().unwrap()).unwrap();
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let status = status.join().unwrap();
        let nobody = User::from_name("nobody").unwrap().unwrap();
        let (uid, gid) = (nobody.uid, nobody.gid);
        // CAP_NET_RAW is number 13.
        for line in [
            format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"),
            format!("Gid:\t{gid}\t{gid}\t{gid}\t{gid}"),
            format!("Groups:\t{gid} "),
            "CapInh:\t0000000000000000".to_owned(),
            "CapPrm:\t0000000000002000".to_owned(),
            "CapEff:\t0000000000002000".to_owned(),
            "CapAmb:\t0000000000000000".to_owned(),
            "NoNewPrivs:\t1".to_owned(),
        ] {
            assert!(
                status.lines().any(|there| there == line),
                "{line:?} in {status}"
            );
        }
    }
}
