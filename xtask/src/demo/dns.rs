//! Runs the DNS steps: the records of dnsmasq, the queries of `dig` and `dnsperf`, and the check of the answers.

use super::lab::{Family, Lab};
use super::relay::DNS;
use super::traffic::{path, write};
use crate::namespace::Namespace;
use crate::process::{Result, Session, failed};
use std::fmt::Write as _;
use std::time::Duration;

/// Number of host names in the DNS server, each with an A and an AAAA record.
const HOSTS: u32 = 200;
/// Number of DNS queries for each second of `--seconds`. The count is fixed, so a slow machine takes longer.
const QUERIES_PER_SECOND: u32 = 4000;

/// Runs `dig` for every record, through the relay and directly at the server. The answers must be equal and correct.
pub(super) fn dig(session: &Session, lab: &Lab, family: Family) -> Result<String> {
    let questions = session.dir.join("questions");
    write(&questions, &questions_text())?;
    let questions = path(&questions);
    let dig = |ns: &Namespace, server: &str| -> Result<Vec<String>> {
        let at = format!("@{server}");
        let port = DNS.to_string();
        let argv = ["dig", &at, "-p", &port, "+noall", "+answer", "+time=2", "+tries=3", "-f", &questions];
        let output = session.run("dig", &ns.argv(&argv), Duration::from_secs(120))?;
        Ok(answers(&output.stdout))
    };
    let relayed = dig(&lab.clients, family.relay())?;
    let direct = dig(&lab.servers, family.server())?;
    let expected = expected_answers();
    if relayed != expected {
        let wrong: Vec<&String> = relayed.iter().filter(|a| !expected.contains(a)).take(3).collect();
        return failed(format!("dig: {} answers; expected {}; unexpected: {wrong:?}", relayed.len(), expected.len()));
    }
    if relayed != direct {
        return failed("dig: the answers through the relay differ from the direct answers");
    }
    Ok(format!("{} correct answers", relayed.len()))
}

/// Runs `dnsperf` with a fixed number of queries from sixteen sockets.
pub(super) fn query_load(session: &Session, lab: &Lab, family: Family, seconds: u32) -> Result<String> {
    let questions = path(&session.dir.join("questions"));
    let runs = (QUERIES_PER_SECOND * seconds / (2 * HOSTS)).to_string();
    let port = DNS.to_string();
    let argv = ["dnsperf", "-s", family.relay(), "-p", &port, "-d", &questions, "-n", &runs, "-c", "16", "-q", "100"];
    let output = session.run("dnsperf", &lab.clients.argv(&argv), Duration::from_secs(u64::from(seconds) * 10 + 30))?;
    let count = |label: &str| line_number(&output.stdout, label);
    let (Some(sent), Some(completed)) = (count("Queries sent:"), count("Queries completed:")) else {
        return failed(format!("dnsperf: unknown output:\n{}", output.stdout));
    };
    let lost = sent.saturating_sub(completed);
    if sent == 0 || lost * 100 > sent {
        return failed(format!("dnsperf: {lost} of {sent} queries were lost"));
    }
    let good = output.stdout.lines().find_map(|l| l.trim().strip_prefix("Response codes:"));
    if good.is_none_or(|codes| line_number(codes, "NOERROR") != Some(completed)) {
        return failed(format!("dnsperf: replies other than NOERROR: {}", good.unwrap_or("no response codes")));
    }
    Ok(format!("{completed} replies, {lost} lost"))
}

/// Returns dnsmasq's configuration: two records for each host, on both addresses of the server.
pub(super) fn dnsmasq_conf() -> String {
    let mut text = String::from(
        "no-resolv\nno-hosts\nno-poll\nbind-interfaces\nexcept-interface=lo\nlocal=/demo.test/\npid-file=\n",
    );
    let _ =
        writeln!(text, "port={DNS}\nlisten-address={}\nlisten-address={}", Family::V4.server(), Family::V6.server());
    for host in 0..HOSTS {
        let _ = writeln!(text, "host-record=h{host}.demo.test,198.51.100.{host},2001:db8::{host:x}");
    }
    text
}

fn questions_text() -> String {
    (0..HOSTS).fold(String::new(), |mut text, host| {
        let _ = writeln!(text, "h{host}.demo.test A\nh{host}.demo.test AAAA");
        text
    })
}

fn expected_answers() -> Vec<String> {
    let both = |h| [format!("h{h}.demo.test. A 198.51.100.{h}"), format!("h{h}.demo.test. AAAA 2001:db8::{}", hex(h))];
    let mut all: Vec<String> = (0..HOSTS).flat_map(both).collect();
    all.sort_unstable();
    all
}

/// Formats the last group like inet_ntop, which prints `2001:db8::` for zero.
fn hex(host: u32) -> String {
    if host == 0 { String::new() } else { format!("{host:x}") }
}

/// Returns `name type value` of each line `name ttl class type value`, sorted.
fn answers(dig: &str) -> Vec<String> {
    let mut all: Vec<String> = dig
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            match fields[..] {
                [name, _ttl, "IN", kind, value] => Some(format!("{name} {kind} {value}")),
                [] => None,
                _ => Some(line.to_owned()),
            }
        })
        .collect();
    all.sort_unstable();
    all
}

/// Returns the first whole number after `label`.
fn line_number(text: &str, label: &str) -> Option<u64> {
    text.split_once(label)?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_compare_without_ttl_and_order() {
        let dig = "h1.demo.test.\t\t0\tIN\tAAAA\t2001:db8::1\n\nh0.demo.test.  7 IN A 198.51.100.0\n";
        assert_eq!(answers(dig), ["h0.demo.test. A 198.51.100.0", "h1.demo.test. AAAA 2001:db8::1"]);
        assert_eq!(answers(";; connection timed out"), [";; connection timed out"], "an error message is kept");
    }

    #[test]
    fn expected_answers_are_two_per_host() {
        let all = expected_answers();
        assert_eq!(all.len() as u32, 2 * HOSTS);
        assert!(all.contains(&"h199.demo.test. AAAA 2001:db8::c7".to_owned()));
    }

    #[test]
    fn numbers_are_found_after_their_label() {
        assert_eq!(line_number("  Queries sent:         400\n", "Queries sent:"), Some(400));
        assert_eq!(line_number("NOERROR 12 (100.00%)", "NOERROR"), Some(12));
        assert_eq!(line_number("", "NOERROR"), None);
    }
}
